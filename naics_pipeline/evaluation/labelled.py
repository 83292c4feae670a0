"""Labelled texts of a user's own: free text with one or more right codes, perhaps of another vintage.

They are for choosing between methods and for judging them; nothing is fitted on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import comb

from naics_pipeline.errors import SettingsError
from naics_pipeline.scorers.blend import Probable
from naics_pipeline.scorers.calibration import calibration_metrics
from naics_pipeline.scorers.ensemble import CODE
from naics_pipeline.scorers.parts import part_weights, split_parts, with_parts

LABELLED_RANKS = (1, 5, 10)
PARTS, MIXED_PARTS = "parts", "mixed_parts"
"""Read-outs of a text and its parts: by the best blend there is, and by the one that reads the space alone."""


def read_labelled(path: Path) -> pl.DataFrame:
    """One row per text and per part of a text: text_id, part (0: the whole text), codes (list), text.

    Raises:
        SettingsError: the file cannot be read, lacks a column, or has a row without text; names file, column, row.
    """
    try:
        rows = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SettingsError(f"evaluation.labelled: {path} is not a readable CSV file ({error}).") from error
    for column in ("text", "codes"):
        if column not in rows.columns:
            raise SettingsError(f"evaluation.labelled: {path} has no column '{column}'; it needs text and codes.")
    texts = rows["text"].str.strip_chars().fill_null("")
    if (texts == "").any():
        raise SettingsError(f"evaluation.labelled: {path} has no text in row {(texts == '').arg_true()[0] + 2}.")
    parts = pl.Series([[text, *split_parts(text)] for text in texts.to_list()], dtype=pl.List(pl.String))
    return (
        pl.DataFrame({"codes": rows["codes"].fill_null("").str.extract_all(r"\d+"), "text": parts})
        .with_row_index("text_id")
        .with_columns(part=pl.int_ranges(pl.col("text").list.len()))
        .explode("part", "text")
        .select("text_id", pl.col("part").cast(pl.UInt32), "codes", "text")
    )


@dataclass(frozen=True)
class LabelledTexts:
    """Which candidates are right for which text; R rows of texts and parts, T texts with a right code among them.

    Attributes:
        whole: (T,) rows that are whole texts.
        parts: (P,) rows that are parts of these.
        text: (P,) position among the T texts that each part is of.
        weight: (P,) what each part counts in its text.
        is_right: (T, L).
        left_out: texts without any code among the candidates.
        other_codes: codes that are no candidates, over all texts: of another vintage, as a rule.
    """

    whole: np.ndarray
    parts: np.ndarray
    text: np.ndarray
    weight: np.ndarray
    is_right: np.ndarray
    left_out: int
    other_codes: int

    @classmethod
    def of(cls, rows: pl.DataFrame, candidates: np.ndarray) -> "LabelledTexts":
        """From the columns of `read_labelled`, in the order of the rows that are scored."""
        known = pl.DataFrame({"code": candidates.tolist(), "column": np.arange(len(candidates))})
        rows = rows.select("text_id", "part", "codes", "text").rename({"text": "words"}).with_row_index("row")
        given = rows.filter(part=0).select("text_id", "row", code=pl.col("codes").list.unique())
        given = given.explode("code").join(known, on="code", how="left", maintain_order="left")
        right = given.drop_nulls("column")
        texts = right.select("text_id", "row").unique(maintain_order=True).with_row_index("text")
        parts = rows.filter(pl.col("part") > 0).join(texts.select("text_id", "text"), on="text_id", how="inner")
        is_right = np.zeros((texts.height, len(candidates)), dtype=bool)
        right = right.join(texts.select("text_id", "text"), on="text_id")
        is_right[right["text"].to_numpy(), right["column"].to_numpy()] = True
        return cls(
            whole=texts["row"].to_numpy(),
            parts=parts["row"].to_numpy(),
            text=parts["text"].to_numpy().astype(np.intp),
            weight=part_weights(parts["words"].to_list(), parts["part"].to_numpy()),
            is_right=is_right,
            left_out=rows.filter(part=0).height - texts.height,
            other_codes=given.filter(pl.col("column").is_null() & pl.col("code").is_not_null()).height,
        )

    def scores(self, scores: Mapping[str, np.ndarray], by_parts: Mapping[str, Probable]) -> dict[str, np.ndarray]:
        """(T,) by read-out, whether a right code is among the first: labelled/top1, labelled/parts/top5, ...

        Args:
            scores: read-out → (R, L), of which less is better, in the order of the rows.
            by_parts: read-out of texts and parts together → what it says of each of the R rows.
        """
        by_readout = {readout: values[self.whole] for readout, values in scores.items()}
        by_readout |= {readout: -self.answers(probable) for readout, probable in by_parts.items()}
        found: dict[str, np.ndarray] = {}
        for readout, values in by_readout.items():
            mark = "" if readout == CODE else f"{readout}/"
            found |= {f"labelled/{mark}{name}": value for name, value in label_hits(values, self.is_right).items()}
        return found

    def answers(self, probable: Probable) -> np.ndarray:
        """(T, L) probabilities of the texts, their parts taken in."""
        return with_parts(probable.at(self.whole), probable.chances[self.parts], self.text, self.weight)

    def metrics(self, scores: Mapping[str, np.ndarray], by_parts: Mapping[str, Probable]) -> dict[str, float]:
        """Means of `scores`, how many texts there are and are left out, and how far probabilities hold."""
        found = {"labelled/texts": float(len(self.whole)), "labelled/left_out": float(self.left_out)}
        found["labelled/other_codes"] = float(self.other_codes)
        hits = self.scores(scores, by_parts)
        found |= {name: float(values.mean()) if values.size else float("nan") for name, values in hits.items()}
        for readout, probable in by_parts.items():
            answers = self.answers(probable)
            right = self.is_right[np.arange(len(answers)), answers.argmax(axis=1)]
            measured = calibration_metrics(answers.max(axis=1), right)
            found |= {f"labelled/{readout}/{name}": value for name, value in measured.items()}
        return found


def label_hits(scores: np.ndarray, is_right: np.ndarray) -> dict[str, np.ndarray]:
    """top{k}: (T,) whether a right code is among the k best, averaged over the orders of tied candidates.

    Args:
        scores: (T, L), of which less is better.
        is_right: (T, L), at least one in each row.
    """
    best = np.where(is_right, scores, np.inf).min(axis=1, keepdims=True)
    closer, tie = np.count_nonzero(scores < best, axis=1), scores == best
    tied, wrong = np.count_nonzero(tie, axis=1), np.count_nonzero(tie & ~is_right, axis=1)
    hits = {}
    for k in LABELLED_RANKS:
        drawn = np.clip(k - closer, 0, tied)
        # Of the tied ones so many come among the first k; all of them wrong by this chance.
        hits[f"top{k}"] = 1 - comb(wrong, drawn) / comb(tied, drawn)
    return hits
