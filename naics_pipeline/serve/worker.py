"""One thread that asks the index: what waits is answered together, for a batch takes little longer than one text."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from naics_pipeline.search.answers import Answer
from naics_pipeline.search.index import Index

TOGETHER = 64
"""Texts of one batch."""


@dataclass(frozen=True)
class _Question:
    texts: list[str]
    k: int
    threshold: float
    future: "Future[list[Answer]]" = field(default_factory=Future)


@dataclass(frozen=True)
class _Work:
    call: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)


class Worker:
    """Answers questions in the order in which they come, those of one kind together."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._waiting: SimpleQueue[_Question | _Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="search", daemon=True)
        self._thread.start()

    def search(self, texts: list[str], k: int, threshold: float) -> "Future[list[Answer]]":
        """As `Index.search`."""
        question = _Question(texts, k, threshold)
        self._waiting.put(question)
        return question.future

    def run(self, call: Callable[[], Any]) -> "Future[Any]":
        """What else the index is needed for, in its turn."""
        work = _Work(call)
        self._waiting.put(work)
        return work.future

    def close(self) -> None:
        """Ends when what waits now is done."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        item = self._waiting.get()
        while item is not None:
            if isinstance(item, _Work):
                _settle([item.future], partial(_alone, item.call))
                item = self._waiting.get()
            else:
                item = self._answer_with_those_like(item)

    def _answer_with_those_like(self, first: _Question) -> _Question | _Work | None:
        """Answers a question and those that wait behind it; returns the first item of another kind."""
        together, count = [first], len(first.texts)
        other: _Question | _Work | None = None
        waits = False
        while count < TOGETHER and not waits:
            try:
                other = self._waiting.get_nowait()
            except Empty:
                break
            waits = not isinstance(other, _Question) or (other.k, other.threshold) != (first.k, first.threshold)
            if isinstance(other, _Question) and not waits:
                together.append(other)
                count += len(other.texts)
        self._answer(together, [text for question in together for text in question.texts])
        return other if waits else self._waiting.get()

    def _answer(self, together: list[_Question], texts: list[str]) -> None:
        def ask() -> list[list[Answer]]:
            found = iter(self.index.search(texts, together[0].k, together[0].threshold))
            return [[next(found) for _ in question.texts] for question in together]

        _settle([question.future for question in together], ask)


def _alone(call: Callable[[], Any]) -> list[Any]:
    return [call()]


def _settle(futures: "list[Future[Any]]", call: Callable[[], list[Any]]) -> None:
    try:
        results = call()
    except Exception as error:
        # Whoever waits is told; the thread lives on.
        for future in futures:
            future.set_exception(error)
        return
    for future, result in zip(futures, results, strict=True):
        future.set_result(result)
