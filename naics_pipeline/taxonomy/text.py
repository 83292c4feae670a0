"""What the cells of the workbooks mean: descriptions, examples, exclusions and index entries as clean text."""

import hashlib
import re

import numpy as np
import polars as pl

from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy.census import Workbooks
from naics_pipeline.taxonomy.tree import MERGED_SECTORS, Tree

TRAIN, HELD_OUT = "train", "held_out"

# Spelled out instead of \W, of which Python and polars have different notions: ASCII, Latin-1 and general punctuation.
_NOT_WORDS = r"(?:[^a-z0-9\u0080-\U0010ffff]|[\u0080-\u00bf\u2000-\u206f])+"
_TAG = r"</?[A-Za-z][^>]*>"
_HEADING = r"(?i)^(?:the sector as a whole|null|cross-references?\..*)$"
_LINK = r"^See industry description for (\d{2,6})\.?$"
_LIST_MARKER = r"(?i)^illustrative examples:\s*"
_EXCLUSION = r"\b[Ee]xcluded from (?:this|the) |\bThis (?:sub)?sector excludes "
_BORROWED_WORDING = r"\b([Tt]his) (?:U\.S\. |NAICS )?industry(?: group)?\b"
_SECTOR_LIST = r"\b[Ss]ectors?\s+\d{2}(?:-\d{2})?\b(?:(?:,|,?\s+and|,?\s+or)\s+\d{2}(?:-\d{2})?\b)*"
# With what may cling to a number and makes it something else than a code: $5, 1,000, 2.5, 220-volt.
_NUMBER = r"\$?\d+(?:,\d{3}\b)*(?:\.\d+)?(?:-\w+)?"
_ACTIVITY = r"^(?:Establishments primarily engaged in )?(.+?)(?:,|--|\u2014)?\s*\b(?:is|are) classified\b"


def normalise(text: str) -> str:
    """Lower case, each run of punctuation and white space one space: two entries with the same result are equal."""
    return re.sub(_NOT_WORDS, " ", text.lower()).strip()


def normalised(column: str) -> pl.Expr:
    """`normalise` of a column."""
    return pl.col(column).str.to_lowercase().str.replace_all(_NOT_WORDS, " ").str.strip_chars()


def _collapsed(column: str) -> pl.Expr:
    return pl.col(column).str.replace_all(r"\s+", " ").str.strip_chars()


def index_entries(books: Workbooks, held_out_fraction: float) -> pl.DataFrame:
    """A row per index entry, in file order: code, entry, split.

    The split of an entry hangs on nothing but its code and words, so that it stays when others come and go.
    """
    frame = books.index.select("code", _collapsed("entry")).unique(maintain_order=True)
    limit = round(100 * held_out_fraction, 6)
    keys = frame.select(pl.concat_str("code", "entry", separator="|")).to_series()
    parts = [int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 100 for key in keys]
    held_out = pl.Series(parts, dtype=pl.Int64) < limit
    return frame.with_columns(split=pl.when(held_out).then(pl.lit(HELD_OUT)).otherwise(pl.lit(TRAIN)))


def descriptions(books: Workbooks, entries: pl.DataFrame) -> pl.DataFrame:
    """A row per code, in the order of the codes: its level, title and texts, and the codes that it excludes.

    Args:
        books: the source.
        entries: as `index_entries` gives them; the held-out ones get into no text.
    Raises:
        SourceError: a code has no description and none to take over.
    """
    codes = books.codes.select("code", _collapsed("title")).sort("code")
    tree = Tree.from_codes(codes["code"].to_list())
    paragraphs = _paragraphs(books)
    frame = (
        codes.with_row_index("index")
        .with_columns(pl.col("index").cast(pl.UInt16), level=pl.col("code").str.len_chars().cast(pl.UInt8))
        .join(_own_or_borrowed(codes, paragraphs, tree, books.origin), on="code", maintain_order="left")
        .join(_examples(paragraphs, entries), on="code", how="left", maintain_order="left")
        .join(_exclusions(books, paragraphs, entries), on="code", how="left", maintain_order="left")
    )
    return frame.select(
        "index",
        "level",
        "code",
        "title",
        "description",
        "description_from",
        "examples",
        "excluded",
        pl.col("excluded_codes").fill_null(pl.lit([], dtype=pl.List(pl.String))),
    )


def _paragraphs(books: Workbooks) -> pl.DataFrame:
    """A row per paragraph of a description, in order: code, paragraph, cited, kind (text, link, example or exclusion).

    An exclusion belongs to a sector or subsector and names the codes that its activities are sent to; one that names
    none is an ordinary part of the description.
    """
    marker = pl.col("paragraph").str.contains(_LIST_MARKER)
    return (
        books.descriptions.select(
            "code", pl.col("description").str.replace_all("\r", "\n", literal=True).str.split("\n")
        )
        .explode("description", empty_as_null=True)
        .select("code", paragraph=pl.col("description").str.replace_all(_TAG, " "))
        .with_columns(_collapsed("paragraph"))
        .filter(~pl.col("paragraph").str.contains(_HEADING))
        .with_columns(cited=_cited("paragraph", books.codes["code"]))
        .with_columns(
            pl.col("paragraph").str.replace(_LIST_MARKER, ""),
            kind=pl.when(marker.cum_max().over("code"))
            .then(pl.lit("example"))
            .when(pl.col("paragraph").str.contains(_LINK))
            .then(pl.lit("link"))
            .when(_is_exclusion())
            .then(pl.lit("exclusion"))
            .otherwise(pl.lit("text")),
        )
        .filter(pl.col("paragraph") != "")
    )


def _is_exclusion() -> pl.Expr:
    shallow = pl.col("code").str.len_chars() <= 3
    return shallow & pl.col("paragraph").str.contains(_EXCLUSION) & (pl.col("cited").list.len() > 0)


def _own_or_borrowed(codes: pl.DataFrame, paragraphs: pl.DataFrame, tree: Tree, origin: str) -> pl.DataFrame:
    """code, description, description_from: own text, or that of the code it refers to, or of the first child."""
    texts = (
        paragraphs.filter(pl.col("kind") == "text")
        .group_by("code", maintain_order=True)
        .agg(pl.col("paragraph").str.join(" ").alias("description"))
    )
    links = paragraphs.filter(pl.col("kind") == "link").select("code", link=pl.col("paragraph").str.extract(_LINK))
    own = np.isin(tree.codes, texts["code"].to_numpy().astype(np.str_))
    donor = _donors(own, links.unique("code", keep="first", maintain_order=True), tree, origin)
    adapted = pl.col("description").str.replace_all
    return (
        codes.select("code", description_from=pl.Series(tree.codes[donor].tolist(), dtype=pl.String))
        .join(texts, left_on="description_from", right_on="code", maintain_order="left")
        .with_columns(
            pl.when(pl.col("code") == pl.col("description_from"))
            .then("description")
            .when(pl.col("code").str.len_chars() == 5)
            .then(adapted(_BORROWED_WORDING, "$1 NAICS industry"))
            .when(pl.col("code").str.len_chars() == 4)
            .then(adapted(_BORROWED_WORDING, "$1 industry group"))
            .otherwise("description")
        )
    )


def _donors(own: np.ndarray, links: pl.DataFrame, tree: Tree, origin: str) -> np.ndarray:
    """(N,) index of the code whose text each code has: itself, or the end of the chain of references."""
    unknown = links.filter(~pl.col("link").is_in(tree.codes.tolist()))
    if unknown.height:
        code, link = unknown.row(0)
        raise SourceError(
            f"{origin}, descriptions: {code} refers to the text of {link}, which is not a code; correct the reference."
        )
    step = np.arange(len(tree))
    children, first_child = np.unique(tree.parent, return_index=True)
    step[children[children >= 0]] = first_child[children >= 0]
    step[tree.position(links["code"])] = tree.position(links["link"])
    step[own] = np.flatnonzero(own)
    for _ in range(len(tree)):
        further = step[step]
        if (further == step).all():
            break
        step = further
    lost = ~own[step]
    if lost.any():
        raise SourceError(
            f"{origin}, descriptions: {tree.codes[lost][0]} has no text and no code to take one from; write one."
        )
    return step


def _examples(paragraphs: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """code, examples: the training entries of a code, else its illustrative list, neither with a held-out entry."""
    listed = paragraphs.filter(pl.col("kind") == "example").select("code", entry="paragraph")
    indexed = entries.filter(pl.col("split") == TRAIN).select("code", "entry")
    both = pl.concat([indexed.with_columns(source=0), listed.with_columns(source=1)])
    return (
        _without_held_out(both, "entry", entries)
        .filter(pl.col("source") == pl.col("source").min().over("code"))
        .unique(["code", "entry"], maintain_order=True)
        .group_by("code", maintain_order=True)
        .agg(pl.col("entry").str.join("; ").alias("examples"))
    )


def _without_held_out(frame: pl.DataFrame, column: str, entries: pl.DataFrame) -> pl.DataFrame:
    """The rows whose text does not equal a held-out entry of any code, case and punctuation aside."""
    held_out = entries.filter(pl.col("split") == HELD_OUT).select(normalised("entry").alias("_key"))
    return (
        frame.with_columns(_key=normalised(column))
        .join(held_out, on="_key", how="anti", maintain_order="left")
        .drop("_key")
    )


def _statements(books: Workbooks, known: pl.Series) -> pl.DataFrame:
    """code, statement, phrase, cited: each cross-reference of a code once, its activity, the known codes it names."""
    return (
        books.cross_references.select("code", _collapsed("statement").str.replace(r";(?: and)?$", "."))
        .unique(maintain_order=True)
        .with_columns(phrase=pl.col("statement").str.extract(_ACTIVITY), cited=_cited("statement", known))
    )


def _cited(column: str, known: pl.Series) -> pl.Expr:
    """The known codes that a text names; two digits count only after the word sector, and 44-45 is 44."""
    text = pl.col(column)
    sectors = text.str.extract_all(_SECTOR_LIST).list.join(" ").str.extract_all(r"\d{2}(?:-\d{2})?")
    merged = pl.element().str.slice(0, 2).replace(MERGED_SECTORS)
    longer = text.str.extract_all(_NUMBER).list.eval(pl.element().filter(pl.element().str.contains(r"^\d{3,6}$")))
    cited = pl.concat_list(sectors.list.eval(merged), longer)
    return cited.list.eval(pl.element().filter(pl.element().is_in(known.implode()))).list.unique(maintain_order=True)


def _exclusions(books: Workbooks, paragraphs: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """code, excluded, excluded_codes, from the cross-references and from what a sector says of itself.

    A statement whose activity is a held-out entry is cited all the same, but its words are left out.
    """
    said = paragraphs.filter(pl.col("kind") == "exclusion").select("code", "cited", statement="paragraph")
    statements = pl.concat([_statements(books, books.codes["code"]), said], how="diagonal")
    texts = _without_held_out(statements, "phrase", entries)
    texts = texts.group_by("code", maintain_order=True).agg(pl.col("statement").str.join(" ").alias("excluded"))
    cited = (
        statements.select("code", "cited")
        .explode("cited", empty_as_null=False)
        .filter(pl.col("cited") != pl.col("code"))
        .group_by("code", maintain_order=True)
        .agg(pl.col("cited").unique(maintain_order=True).alias("excluded_codes"))
    )
    return texts.join(cited, on="code", how="full", coalesce=True)


def activity_phrases(books: Workbooks, descriptions: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """A row per activity and code that a cross-reference statement sends it to: phrase, code, under.

    "Growing soybeans--are classified in Industry 111110" under 111120 gives ("Growing soybeans", "111110", "111120").
    A phrase that equals a held-out entry is left out.
    """
    phrases = (
        _statements(books, descriptions["code"])
        .select("phrase", code="cited", under="code")
        .drop_nulls("phrase")
        .explode("code", empty_as_null=False)
        .filter(pl.col("code") != pl.col("under"))
        .unique(maintain_order=True)
    )
    return _without_held_out(phrases, "phrase", entries)
