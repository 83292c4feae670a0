"""What the cells of the workbooks mean: descriptions, examples, exclusions and index entries as clean text.

An entry is unseen if its split is not `train`: it reaches no text but those in which Census itself says it again.
"""

import hashlib
import re

import numpy as np
import polars as pl

from naics_pipeline.errors import SourceError
from naics_pipeline.taxonomy.census import Workbooks
from naics_pipeline.taxonomy.tree import MERGED_SECTORS, Tree

TRAIN, VALIDATION, HELD_OUT = "train", "validation", "held_out"

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

# Titles inside a sentence: capital letters, and the small words between them.
_TITLE = r"(?:(?:[A-Z(][\w,'’().-]*|and|of|for|to|the|or|except|in),? )+?"
_CODE_NOUN = r"(?:industry group|industry|industries|subsector|sector)"
_ABBREVIATION = r"\b(St|Dr|Mr|Mrs|No|Nos|Inc|vs)\. "
# A full stop ends a sentence after two letters or a bracket, so that those of U.S. and e.g. do not.
_SENTENCE_END = r"((?:[\w%][\w)\"”]|[)\"”])\.|\bU\.S\.) +((?:[A-Z][^.]|\(\d))"
_LIST_NUMBER = r"[\s:;,]*\(\d+\)\s*"
_LIST_LEAD = (
    r"\s*(?:(?:\b(?:may )?(?:do|perform|provide) )?"
    r"(?:\b(?:one|any|all|either)(?: or more| or both)? of )?\bthe following\b.*|\beither|:)\s*$"
)
_LIST_END = r"[\s;,.:]*(?:\b(?:and/or|and|or))?[\s;,.:]*$"
_OPENINGS = (
    rf"^(?:This|The {_TITLE})\s?(?:U\.S\. |NAICS )?{_CODE_NOUN} (?:also |generally )?"
    r"(?:comprises|consists of|includes|covers|groups|gathers):?(?: |$)",
    rf"^(?:The )?[Ee]stablishments (?:in|of) (?:this|these|the {_TITLE})\s?(?:U\.S\. |NAICS )?{_CODE_NOUN} ",
    rf"^(?:The )?[Ii]ndustries (?:in|of) the {_TITLE}\s?{_CODE_NOUN} (?:groups? |includes? |comprises? )?",
    rf"^(?:Also included|Included)(?: in this {_CODE_NOUN})? (?:are|is):?(?: |$)",
    r"^(?:Examples of products made|Processes used|Services included|Activities performed)(?: (?:by|in) [^,.;:]*?)? "
    r"(?:include|are):? ",
    r"^These establishments ",
    r"^(?:also )?(?:government )?establishments(?: that are| which are)? (?:generally |commonly |also |often )?"
    r"(?:(?:primarily |mainly |exclusively )?engaged in|known as|referred to as|of|that):?(?: |$)",
    r"^are (?:primarily |mainly )?engaged in:?(?: |$)",
    r"^(?:may|can|also|often|generally|typically|usually|primarily)(?: also| generally| often| primarily)? ",
)
_CLOSINGS = {
    rf"^E(stablishments .*?),? (?:are|is) (?:also )?included in this {_CODE_NOUN}$": "e$1",
    rf",? (?:are|is) (?:also )?included(?: in this {_CODE_NOUN})?$": "",
}
# Of other codes and of the classification itself; hanging on what was said before; what is not done or merely is.
_UNFIT = (
    rf"(?i:\bclassif|\bNAICS\b|\bnot included\b|\bexclud|\b{_CODE_NOUN}s? \d|\bindustry groups?\b|\bsubsectors?\b"
    rf"|\b(?:this|these|the|each|other|two|three|four|all|separate)(?: \S+){{0,6}} {_CODE_NOUN}\b|^industries\b"
    r"|\b(?:two|three|four) (?:main |distinct |basic )?\S+ ?(?:types|groups|processes)\b|\btypes? of establishments\b"
    r"|\bthese (?:activit|goods|items|materials|process|product|service|support|\w+ activit))"
    r"|^(?i:(?:However|Therefore|Thus|Hence|Consequently|Conversely|Instead|Similarly|Likewise|Moreover|Furthermore"
    r"|Although|Though|While|Because|Since|If|When|Nevertheless|In (?:contrast|addition|general)|By exception|Due to"
    r"|For (?:instance|example)|As a result|Such|They|Their|It|Its|This|These|Those|That|Both|Others?|Some|Many|Most"
    r"|(?:either )?(?:be|are|is|has|have|do not|does not|include))\b)"
    r"|^(?:The|A|An|There|In|Generally|Usually)\b"
)


def normalise(text: str) -> str:
    """Lower case, each run of punctuation and white space one space: two entries with the same result are equal."""
    return re.sub(_NOT_WORDS, " ", text.lower()).strip()


def normalised(column: str) -> pl.Expr:
    """`normalise` of a column."""
    return pl.col(column).str.to_lowercase().str.replace_all(_NOT_WORDS, " ").str.strip_chars()


def collapsed(column: str) -> pl.Expr:
    """A column with each run of white space one space."""
    return pl.col(column).str.replace_all(r"\s+", " ").str.strip_chars()


def index_entries(books: Workbooks, held_out_fraction: float, validation_fraction: float) -> pl.DataFrame:
    """A row per index entry, in file order: code, entry, split.

    The split of an entry hangs on nothing but its code and words, so that it stays when others come and go.
    """
    frame = books.index.select("code", collapsed("entry")).unique(maintain_order=True)
    keys = frame.select(pl.concat_str("code", "entry", separator="|")).to_series()
    parts = [int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 100 for key in keys]
    percent = pl.lit(pl.Series(parts, dtype=pl.Int64))
    return frame.with_columns(
        split=pl.when(percent < round(100 * held_out_fraction, 6))
        .then(pl.lit(HELD_OUT))
        .when(percent < round(100 * (held_out_fraction + validation_fraction), 6))
        .then(pl.lit(VALIDATION))
        .otherwise(pl.lit(TRAIN))
    )


def descriptions(books: Workbooks, entries: pl.DataFrame) -> pl.DataFrame:
    """A row per code, in the order of the codes: its level, title and texts, and the codes that it excludes.

    Args:
        books: the source.
        entries: as `index_entries` gives them; the unseen ones get into no text.
    Raises:
        SourceError: a code has no description and none to take over.
    """
    codes = books.codes.select("code", collapsed("title")).sort("code")
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
        .with_columns(collapsed("paragraph"))
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
    """code, examples: the training entries of a code, else its illustrative list, neither with an unseen entry."""
    listed = paragraphs.filter(pl.col("kind") == "example").select("code", entry="paragraph")
    indexed = entries.filter(pl.col("split") == TRAIN).select("code", "entry")
    both = pl.concat([indexed.with_columns(source=0), listed.with_columns(source=1)])
    return (
        without_unseen(both, "entry", entries)
        .filter(pl.col("source") == pl.col("source").min().over("code"))
        .unique(["code", "entry"], maintain_order=True)
        .group_by("code", maintain_order=True)
        .agg(pl.col("entry").alias("examples"))
    )


def _unseen_keys(entries: pl.DataFrame) -> pl.Series:
    return entries.filter(pl.col("split") != TRAIN).select(normalised("entry").unique()).to_series()


def without_unseen(frame: pl.DataFrame, column: str, entries: pl.DataFrame) -> pl.DataFrame:
    """The rows whose text does not equal an unseen entry of any code, case and punctuation aside."""
    return frame.filter(~normalised(column).is_in(_unseen_keys(entries).implode()).fill_null(False))


def unseen_within(frame: pl.DataFrame, column: str, entries: pl.DataFrame) -> pl.DataFrame:
    """The rows whose text holds an unseen entry of any code word for word, once for each, which is the column `key`.

    Equality is the case of nothing around it.
    """
    # With a space on either side of both, a match begins and ends where words do.
    patterns = (" " + _unseen_keys(entries) + " ").implode()
    found = pl.concat_str(pl.lit(" "), normalised(column), pl.lit(" ")).str.extract_many(patterns, overlapping=True)
    return (
        frame.with_columns(key=found.list.unique(maintain_order=True))
        .explode("key", empty_as_null=True)
        .drop_nulls("key")
        .with_columns(pl.col("key").str.strip_chars())
    )


def repeated_entries(descriptions: pl.DataFrame, entries: pl.DataFrame) -> pl.Series:
    """(E,) bool: which unseen entries equal a title, or stand inside a description word for word, of any code."""
    titles = descriptions.select(normalised("title").alias("key"))
    described = unseen_within(descriptions, "description", entries).select("key")
    keys = pl.concat([titles, described])["key"].unique()
    repeated = (pl.col("split") != TRAIN) & normalised("entry").is_in(keys.implode())
    return entries.select(repeated.alias("repeated")).to_series()


def _statements(books: Workbooks, known: pl.Series) -> pl.DataFrame:
    """code, statement, phrase, cited: each cross-reference of a code once, its activity, the known codes it names."""
    return (
        books.cross_references.select("code", collapsed("statement").str.replace(r";(?: and)?$", "."))
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

    A statement whose activity is an unseen entry is cited all the same, but its words are left out.
    """
    said = paragraphs.filter(pl.col("kind") == "exclusion").select("code", "cited", statement="paragraph")
    statements = pl.concat([_statements(books, books.codes["code"]), said], how="diagonal")
    texts = without_unseen(statements, "phrase", entries)
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
    A phrase that equals an unseen entry is left out.
    """
    phrases = (
        _statements(books, descriptions["code"])
        .select("phrase", code="cited", under="code")
        .drop_nulls("phrase")
        .explode("code", empty_as_null=False)
        .filter(pl.col("code") != pl.col("under"))
        .unique(maintain_order=True)
    )
    return without_unseen(phrases, "phrase", entries)


def excluded_phrases(descriptions: pl.DataFrame) -> pl.DataFrame:
    """code, phrase: the activities in `excluded`, as they are found again among the joined statements."""
    sentences = _sentences(descriptions.drop_nulls("excluded"), "excluded")
    return sentences.select("code", phrase=pl.col("sentence").str.extract(_ACTIVITY)).drop_nulls("phrase")


def _sentences(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """code, sentence: a row per sentence of a text, without its full stop."""
    ends = pl.col(column).str.replace_all(_ABBREVIATION, "$1.\u00a0").str.replace_all(_SENTENCE_END, "$1\n$2")
    return (
        frame.select("code", sentence=ends.str.split("\n"))
        .explode("sentence")
        .with_columns(pl.col("sentence").str.replace_all("\u00a0", " ", literal=True).str.strip_suffix("."))
    )


def description_sentences(descriptions: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """A row per sentence, or part of a numbered list, of a code's own description: code, sentence.

    "This industry comprises establishments primarily engaged in (1) growing soybeans or (2) drying them." gives
    "growing soybeans". Left out is what has fewer than three words, holds an unseen entry word for word, speaks of
    other codes or hangs on the sentence before it. What several codes say goes to the deepest of them if the others
    lie above it, else to none: as a query it would have no one answer.
    """
    own = descriptions.filter(pl.col("code") == pl.col("description_from"))
    is_list = pl.col("parts").list.len() > 1
    # Sectors and subsectors also tell of much else.
    opened = pl.any_horizontal(pl.col("sentence").str.contains(opening) for opening in _OPENINGS)
    said = (
        _sentences(own, "description")
        .with_columns(parts=pl.col("sentence").str.replace_all(_LIST_NUMBER, "\n").str.split("\n"))
        .with_columns(
            lead=pl.when(is_list).then(_activity(pl.col("parts").list.first()).str.replace(_LIST_LEAD, "")),
            parts=pl.when(is_list).then(pl.col("parts").list.slice(1)).otherwise("parts"),
            about_code=(pl.col("code").str.len_chars() > 3) | opened,
        )
        .explode("parts")
        .select("code", "about_code", "lead", activity=_activity(pl.col("parts")).str.replace(_LIST_END, ""))
        .select("code", "about_code", sentence=pl.concat_str("lead", "activity", separator=" ", ignore_nulls=True))
        .with_columns(pl.col("sentence").str.strip_chars())
    )
    key = normalised("sentence")
    unfit = (key.str.count_matches(" ") < 2) | pl.col("sentence").str.contains(_UNFIT)
    fit = (
        said.filter("about_code", ~unfit)
        .select("code", "sentence")
        .unique(["code", key], keep="first", maintain_order=True)
    )
    fit = fit.join(unseen_within(fit, "sentence", entries), on=["code", "sentence"], how="anti", maintain_order="left")
    deepest = pl.col("code").sort_by(pl.col("code").str.len_chars()).last().over(key)
    others_above = deepest.str.starts_with(pl.col("code")).all().over(key)
    return fit.filter(others_above & (pl.col("code") == deepest))


def _activity(said: pl.Expr) -> pl.Expr:
    """What is said of a code without the words that say of whom it is said."""
    for closing, kept in _CLOSINGS.items():
        said = said.str.replace(closing, kept)
    # Twice, for one opening may hold another: "This industry also includes establishments known as".
    for opening in (*_OPENINGS, *_OPENINGS):
        said = said.str.replace(opening, "")
    return said
