"""Single words as the base's own table of pieces has them: which are alike, without reading any text."""

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from naics_pipeline.text_model.base import load_base, load_tokenizer, locate

_WORD = re.compile(r"[^\W\d_]{2,}")
_BEGINS = "▁Ġ"
"""How SentencePiece and byte-level pieces say that a word begins with them; WordPiece marks the others instead."""
_TINY = np.finfo(np.float32).tiny


def words_in(text: str) -> list[str]:
    """The words of a text in lower case, each once."""
    return list(dict.fromkeys(_WORD.findall(text.lower())))


class WordTable:
    """Vectors of words: the mean of their pieces in the table that a base begins to read with.

    All of them have much in common, which says no more than that each is a word; without the mean of all, those are
    near that mean the like (Mu & Viswanath, 2018).

    Args:
        tokenizer: a fast one of transformers.
        table: (pieces, width) float32.

    Attributes:
        words: those that are one piece, sorted.
    """

    def __init__(self, tokenizer: Any, table: np.ndarray) -> None:
        # Of 20,000 words the wrapper around it takes ten times as long.
        self._tokenizer, self._table = tokenizer.backend_tokenizer, table
        pieces = (piece.lstrip(_BEGINS).lower() for piece in tokenizer.get_vocab())
        self.words = sorted({piece for piece in pieces if _WORD.fullmatch(piece)})
        self._middle = self._means(self.words).mean(axis=0)

    @classmethod
    def of(cls, base: str, sha256: str | None = None) -> Self:
        """The table of a base model.

        Args:
            base, sha256: as in `locate`.
        Raises:
            ModelError: the base cannot be had or loaded.
        """
        directory = locate(base, sha256)
        return cls(load_tokenizer(directory), load_base(directory).get_input_embeddings().weight.numpy())

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """(n, width) float32 of length 1."""
        apart = self._means(words) - self._middle
        found: np.ndarray = apart / np.linalg.norm(apart, axis=1, keepdims=True).clip(min=_TINY)
        return found

    def _means(self, words: Sequence[str]) -> np.ndarray:
        pieces = [found.ids for found in self._tokenizer.encode_batch_fast(list(words), add_special_tokens=False)]
        lengths = np.array([len(row) for row in pieces], dtype=np.int64)
        columns = np.array([piece for row in pieces for piece in row], dtype=np.int64)
        shares = np.repeat(1 / lengths.clip(min=1), lengths).astype(np.float32)
        shape = (len(pieces), len(self._table))
        found: np.ndarray = csr_matrix((shares, columns, np.append(0, lengths.cumsum())), shape=shape) @ self._table
        return found
