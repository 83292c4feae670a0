"""What is said of a failure: our own message first, in Dagster's UI and as the last lines on the terminal."""

import atexit
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from naics_pipeline import errors

OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.NaicsError)}


@contextmanager
def described() -> Iterator[None]:
    """Turns an error made on purpose into a failure of the step that has its message as description.

    It would fail again: no retry policy applies to it. Usable as a decorator of what a step runs.
    """
    try:
        yield
    except errors.NaicsError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@contextmanager
def said_last() -> Iterator[None]:
    """Sees to it that an error made on purpose is what the terminal shows last, below all traces of the caller."""
    try:
        yield
    except errors.NaicsError as error:
        say_at_exit(str(error))
        raise


def explanation(data: Any) -> str:
    """The message of a failed step or run: the error made on purpose where there is one, else the innermost.

    Args:
        data: what a failure event of Dagster carries.
    """
    error, innermost = getattr(data, "error", None), ""
    if error is not None and error.cls_name == "ChildProcessCrashException":
        return (
            "its process was killed, from outside or for want of memory. Free some, or lower "
            "training.tokens_per_group; then run again: training goes on."
        )
    if error is not None and error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
        return "it was told to end. Run it again: training goes on from its last finished epoch."
    described_as = getattr(data, "user_failure_data", None)
    if described_as is not None and described_as.description:
        return str(described_as.description).strip()
    while error is not None:
        innermost = error.message.strip()
        if error.cls_name in OURS:
            return innermost.partition(": ")[2] or innermost
        error = error.cause
    return innermost


def say_at_exit(message: str) -> None:
    """Prints a message when the process ends; each one once."""
    _last_words.setdefault(message)


_last_words: dict[str, None] = {}


@atexit.register
def _say() -> None:
    for message in _last_words:
        print(f"\n{message}", file=sys.stderr)
