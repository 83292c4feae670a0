"""From one vintage of the classification to the next: where the activities of each code went.

The index tells most: an entry stands under a code in both vintages. Where a code has few of them, titles and
descriptions speak too, as so many entries more.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy.census import Workbooks
from naics_pipeline.taxonomy.supplied import read_supplied
from naics_pipeline.taxonomy.text import normalise, normalised
from naics_pipeline.taxonomy.tree import LEVELS, MERGED_SECTORS

WORDS_COUNT = 2.0
"""What title and description say of a code counts as much as so many of its index entries."""
_MOST_ALIKE = 3
IDENTICAL, RENAMED, SPLIT, MERGED, BOTH = "identical", "renamed", "split", "merged", "split and merged"


def crosswalk(old: Workbooks, new: Workbooks, least: float = 0.05) -> pl.DataFrame:
    """A row for each old code, of every level, and each new code of that level that takes over activities of it.

    Args:
        least: share of an old code's activities below which a new code is no candidate, unless it is the only one.
    Returns: old_code, old_title, new_code, new_title; kind, what became of the old code: identical, renamed (title or
        number), split, merged, or both; share of its activities that the new code takes over, most first; confidence,
        that it takes over any, n / (n + 1) of n entries' worth of evidence; entries, how many of the old code's index
        entries stand under the new one, of entries_found that stand under any; reason, in words.
    """
    found = pl.concat([_of_level(old, new, level, least) for level in LEVELS])
    return found.sort("old_code", "share", "new_code", descending=[False, True, False], maintain_order=True)


def _of_level(old: Workbooks, new: Workbooks, level: int, least: float) -> pl.DataFrame:
    before, after = (books.codes.filter(pl.col("code").str.len_chars() == level) for books in (old, new))
    entries = _entries_that_moved(old, new, before, after, level)
    titles = [[title.strip() for title in frame["title"]] for frame in (before, after)]
    same_title = np.array(list(map(normalise, titles[0])))[:, None] == np.array(list(map(normalise, titles[1])))
    same_code = before["code"].to_numpy()[:, None] == after["code"].to_numpy()
    # Where entries tell, or number and title together, words only weigh the codes that these name.
    told = (entries > 0) | (same_code & same_title)
    words = _likeness(old, new, before, after, same_code, told | same_code | ~told.any(axis=1, keepdims=True))
    evidence = entries + WORDS_COUNT * words
    share = evidence / evidence.sum(axis=1, keepdims=True)
    linked = (share >= least) | (share == share.max(axis=1, keepdims=True))
    row, column = np.nonzero(linked)
    split, merged = (linked.sum(axis=1) > 1)[row], (linked.sum(axis=0) > 1)[column]
    kind = np.select(
        [split & _any_by(row, merged), split, merged, (same_title & same_code)[row, column]],
        [BOTH, SPLIT, MERGED, IDENTICAL],
        RENAMED,
    )
    weight = evidence[row, column]
    return pl.DataFrame(
        {
            "old_code": before["code"].to_numpy()[row],
            "old_title": np.array(titles[0], dtype=object)[row].tolist(),
            "new_code": after["code"].to_numpy()[column],
            "new_title": np.array(titles[1], dtype=object)[column].tolist(),
            "kind": kind,
            "share": share[row, column],
            "confidence": weight / (weight + 1),
            "entries": entries[row, column],
            "entries_found": entries.sum(axis=1)[row],
        }
    ).with_columns(reason=_reason(same_code[row, column], same_title[row, column], words[row, column]))


def _any_by(row: np.ndarray, flag: np.ndarray) -> np.ndarray:
    """For each pair, whether any pair of its row has the flag."""
    return np.isin(row, row[flag])


def _at_level(column: str, level: int) -> pl.Expr:
    cut = pl.col(column).str.head(level)
    return cut.replace(MERGED_SECTORS) if level == LEVELS[0] else cut


def _entries_that_moved(
    old: Workbooks, new: Workbooks, before: pl.DataFrame, after: pl.DataFrame, level: int
) -> np.ndarray:
    """(old codes, new codes) index entries that stand under both; one that stands under several new ones is shared."""
    sides = [
        books.index.select(words=normalised("entry"), code=_at_level("code", level)).unique() for books in (old, new)
    ]
    pairs = sides[0].join(sides[1], on="words", suffix="_new")
    pairs = pairs.with_columns(weight=1 / pl.len().over("words", "code"))
    pairs = pairs.join(before.select("code").with_row_index("row"), on="code")
    pairs = pairs.join(after.select(code_new="code").with_row_index("column"), on="code_new")
    moved = np.zeros((before.height, after.height))
    np.add.at(moved, (pairs["row"].to_numpy(), pairs["column"].to_numpy()), pairs["weight"].to_numpy())
    return moved


def _likeness(
    old: Workbooks,
    new: Workbooks,
    before: pl.DataFrame,
    after: pl.DataFrame,
    same_code: np.ndarray,
    possible: np.ndarray,
) -> np.ndarray:
    """(old codes, new codes) by titles and descriptions, each row of sum 1 over the most alike few of the possible."""
    sides = [_documents(books, frame) for books, frame in ((old, before), (new, after))]
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(sides[0] + sides[1])
    first, second = map(vectorizer.transform, sides)
    alike: np.ndarray = (first @ second.T).toarray() ** 2
    # A number that is kept speaks as loud as words can; the last term is for codes whose words nobody shares.
    alike = np.where(possible, alike + same_code + 1e-9, 0)
    few = min(_MOST_ALIKE, after.height)
    alike[alike < -np.partition(-alike, few - 1, axis=1)[:, few - 1 : few]] = 0
    likeness: np.ndarray = alike / alike.sum(axis=1, keepdims=True)
    return likeness


def _documents(books: Workbooks, codes: pl.DataFrame) -> list[str]:
    described = codes.join(books.descriptions, on="code", how="left", maintain_order="left")
    # The title says what the description spells out, in words that the next vintage is likelier to keep.
    return described.select(pl.concat_str("title", "title", pl.col("description").fill_null(""), separator=" "))[
        "title"
    ].to_list()


def _reason(same_code: np.ndarray, same_title: np.ndarray, words: np.ndarray) -> pl.Series:
    said = []
    for code, title, alike in zip(same_code, same_title, words, strict=True):
        parts = [text for text, holds in (("same number", code), ("same title", title)) if holds]
        said.append(", ".join([*parts, *([f"words alike ({alike:.2f})"] if alike and not title else [])]))
    return pl.Series(said)


def read_truth(path: Path, old: Sequence[str], new: Sequence[str]) -> pl.DataFrame:
    """Pairs of a published concordance: old_code, new_code.

    Args:
        path: CSV file with the columns old and new; further ones are left alone.
        old, new: codes of the vintages.
    Raises:
        SourceError: it cannot be read, or its codes are of other vintages.
    """
    pairs = read_supplied(path, "old", "new").rename({"old": "old_code", "new": "new_code"}).unique(maintain_order=True)
    for column, known in (("old_code", old), ("new_code", new)):
        strange = pairs.filter(~pl.col(column).is_in(list(known)).fill_null(False))
        if strange.height:
            raise SourceError(
                f"{path}: '{strange[column][0]}' in column '{column[:3]}' is no code of that vintage. "
                "Give both vintages in the order of the file."
            )
    return pairs


def agreement(found: pl.DataFrame, truth: pl.DataFrame) -> dict[str, float]:
    """How well a crosswalk finds the pairs of a published one, for the old codes that this names.

    Returns: precision and recall of pairs; first, share of old codes whose largest candidate is right; the same for
        changed codes, those that do not simply keep their number.
    """
    alone = truth.group_by("old_code").agg(pairs=pl.len(), kept=(pl.col("old_code") == pl.col("new_code")).any())
    changed = alone.filter((pl.col("pairs") > 1) | ~pl.col("kept"))["old_code"]
    measured: dict[str, float] = {}
    for prefix, codes in (("", alone["old_code"]), ("changed/", changed)):
        right = truth.filter(pl.col("old_code").is_in(codes.implode()))
        mine = found.filter(pl.col("old_code").is_in(codes.implode())).select("old_code", "new_code")
        hits = mine.join(right, on=["old_code", "new_code"], how="semi")
        first = mine.unique("old_code", keep="first", maintain_order=True)
        first_hits = first.join(right, on=["old_code", "new_code"], how="semi")
        measured[f"{prefix}codes"] = float(len(codes))
        if len(codes):
            measured[f"{prefix}precision"] = hits.height / max(1, mine.height)
            measured[f"{prefix}recall"] = hits.height / right.height
            measured[f"{prefix}first"] = first_hits.height / len(codes)
    return measured
