"""All that a search needs, in one directory that can be copied anywhere: points, words, weights, titles, calibration.

The files are safetensors, Parquet and JSON: loading runs no code from them. The base model is not among them; the
manifest names it by the hash of its weights.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from naics_pipeline.errors import ModelError
from naics_pipeline.files import checksum, replacing
from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers.blend import Blend, Probable
from naics_pipeline.scorers.calibration import Calibration
from naics_pipeline.scorers.centroid import CentroidScorer
from naics_pipeline.scorers.definition import DefinitionScorer
from naics_pipeline.scorers.embedding import EmbeddingScorer
from naics_pipeline.scorers.ensemble import (
    CENTROID,
    CODE,
    DEFINITION,
    ENTRY,
    LEXICAL,
    LINEAR,
    RELATED,
    CalibratedBlend,
    all_scorers,
    learn,
    with_entries,
)
from naics_pipeline.scorers.levels import Levels
from naics_pipeline.scorers.lexical import LexicalScorer
from naics_pipeline.scorers.linear import LinearScorer
from naics_pipeline.scorers.nearest_entry import NearestEntryScorer
from naics_pipeline.scorers.related_words import RelatedWordsScorer
from naics_pipeline.scorers.scorer import Scorer, positions
from naics_pipeline.scorers.term_weights import TermWeights
from naics_pipeline.scorers.words import WordTable
from naics_pipeline.search.answers import THRESHOLD, Answer, answers
from naics_pipeline.search.reading import Reading, beginnings
from naics_pipeline.settings import SearchPrecision
from naics_pipeline.taxonomy.text import VALIDATION
from naics_pipeline.taxonomy.tree import LEVELS
from naics_pipeline.text_model.base import locate, weights_sha256
from naics_pipeline.text_model.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline.text_model.inference import load_short
from naics_pipeline.text_model.short import Precision, precision_of

FORMAT, FORMAT_VERSION = "naics-index", 5
MANIFEST, TEXT_MODEL, CODES, PLACES = "manifest.json", "text_model.safetensors", "codes.parquet", "places.parquet"
SCORERS, TERMS = "scorers.safetensors", "terms.json"
FILES = (TEXT_MODEL, CODES, PLACES, SCORERS, TERMS)
_SETTINGS = {"model", "tokens", "training"}


@dataclass(frozen=True)
class Ingredients:
    """What an index is made of.

    Attributes:
        descriptions: frame of the asset; its titles, and which codes exclude which.
        space: points of all codes.
        places: texts below their codes, with the columns kind, text and vector.
        queries: index entries with their right codes, with the columns text, split and vector.
        checkpoint: of the text model whose space it is.
        vintage, seed: as they are set.
    """

    descriptions: pl.DataFrame
    space: Embeddings
    places: Embeddings
    queries: Embeddings
    checkpoint: Path
    vintage: int
    seed: int


def write_index(path: Path, ingredients: Ingredients) -> dict[str, Any]:
    """Fits all scorers and writes the index; a reader sees the old one or the new one. Returns the manifest."""
    codes = ingredients.space.at(ingredients.space.level == max(LEVELS))
    model = _without_training(read_checkpoint(ingredients.checkpoint))
    base = model.record["settings"]["model"]["base"]
    scorers = all_scorers(ingredients.seed, WordTable.of(base))
    known = ingredients.queries.at(ingredients.queries.columns["split"].to_numpy() == VALIDATION)
    unseen = learn(scorers, ingredients.places, codes, known)
    blend = CalibratedBlend.fit(unseen, positions(codes.codes, known.codes))
    lexical, related, linear, definition = (scorers[name] for name in (LEXICAL, RELATED, LINEAR, DEFINITION))
    assert isinstance(lexical, LexicalScorer)
    assert isinstance(related, RelatedWordsScorer)
    assert isinstance(linear, LinearScorer)
    assert isinstance(definition, DefinitionScorer)
    of_words = {LEXICAL: lexical.learned, RELATED: related.learned}
    with replacing(path) as directory:
        directory.mkdir()
        write_checkpoint(directory / TEXT_MODEL, model)
        titles = ingredients.descriptions.select("code", "title", "excluded_codes")
        _with_points(ingredients.space).join(titles, on="code", maintain_order="left").write_parquet(directory / CODES)
        _with_points(with_entries(ingredients.places, known)).join(
            titles.select("code"), on="code", how="semi", maintain_order="left"
        ).write_parquet(directory / PLACES)
        tensors = {f"{LINEAR}.weights": linear.weights, f"{DEFINITION}.vectors": definition.vectors}
        for scorer, learned in of_words.items():
            tensors |= {f"{scorer}.{name}": np.ascontiguousarray(values) for name, values in learned.arrays.items()}
        (directory / SCORERS).write_bytes(save(tensors))
        terms = {scorer: learned.terms for scorer, learned in of_words.items()}
        (directory / TERMS).write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
        files = {
            name: {"sha256": checksum(directory / name), "bytes": (directory / name).stat().st_size} for name in FILES
        }
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "index_version": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12],
            "vintage": ingredients.vintage,
            "codes": len(codes.codes),
            "base": base,
            "base_sha256": weights_sha256(locate(base)),
            "geometry": ingredients.space.geometry,
            "curvature": ingredients.space.curvature,
            "blend": asdict(blend.blend),
            "calibration": asdict(blend.calibration),
            "fitted_on": len(known.codes),
            "files": files,
        }
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return manifest


@dataclass(frozen=True)
class Judgement:
    """What an index makes of n texts.

    Attributes:
        reading: the texts, and those P of their parts that count.
        points: (n, d + 1) of the texts as they stand.
        of_parts: (P, L) probabilities of each part alone.
        chances: (n, L) of the texts, their parts taken in.
    """

    reading: Reading
    points: np.ndarray
    of_parts: np.ndarray
    chances: np.ndarray


class Index:
    """Finds codes for texts. Everything takes many texts at once, in any number.

    Attributes:
        manifest: version, vintage, settings and checksums.
        candidates: (L,) six-digit codes, the columns of all probabilities.
        titles: code → title, of every level.
        excluded: code → the codes that Census sends some of its activities to.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], accelerator: str, base: str | None, precision: Precision
    ) -> None:
        self.manifest, self.precision = manifest, precision
        frame = pl.read_parquet(path / CODES)
        self.titles: dict[str, str] = dict(frame.select("code", "title").iter_rows())
        self.excluded: dict[str, list[str]] = dict(frame.select("code", "excluded_codes").iter_rows())
        codes = self._points(frame.filter(pl.col("code").str.len_chars() == max(LEVELS)))
        self.places = self._points(pl.read_parquet(path / PLACES))
        self.candidates = codes.codes
        _refuse_another_base(path, manifest, base or manifest["base"])
        self.embedder = load_short(path / TEXT_MODEL, accelerator, base, precision)
        tensors, terms = load((path / SCORERS).read_bytes()), json.loads((path / TERMS).read_text(encoding="utf-8"))
        of_words = {name: TermWeights.restored(_of_scorer(name, tensors), own) for name, own in terms.items()}
        self.nearest = NearestEntryScorer().fit(self.places, codes)
        self.lexical = LexicalScorer.restored(of_words[LEXICAL])
        self.scorers: dict[str, Scorer] = {
            CODE: EmbeddingScorer().fit(self.places, codes),
            ENTRY: self.nearest,
            CENTROID: CentroidScorer().fit(self.places, codes),
            LEXICAL: self.lexical,
            RELATED: RelatedWordsScorer.restored(of_words[RELATED]),
            LINEAR: LinearScorer.restored(tensors[f"{LINEAR}.weights"]),
            DEFINITION: DefinitionScorer.restored(tensors[f"{DEFINITION}.vectors"]),
        }
        self.blend = CalibratedBlend(Blend(**manifest["blend"]), Calibration(**manifest["calibration"]))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        accelerator: str = "cpu",
        base: str | None = None,
        precision: SearchPrecision = "auto",
    ) -> "Index":
        """The index in a directory.

        Args:
            base: where the base model is, if it is not where the manifest says: a directory or a name.
            precision: of a BERT's matrices on the CPU: `search.precision`. bfloat16 and int8 are faster and move
                probabilities a little.
        Raises:
            ModelError: there is no index, it is damaged or of another format, or its base model is not to be had.
        """
        path = Path(path)
        manifest = read_manifest(path)
        try:
            return cls(path, manifest, accelerator, base, precision_of(precision, accelerator))
        except (KeyError, TypeError, ValueError, SafetensorError, pl.exceptions.PolarsError) as error:
            raise ModelError(
                f"{path}: an index that cannot be read ({error!r}). Materialize naics_index again."
            ) from error

    @property
    def version(self) -> str:
        """Of the content: two indexes with one version give the same answers."""
        return version_of(self.manifest, self.precision)

    @cached_property
    def levels(self) -> Levels:
        """The codes above the candidates."""
        return Levels.of(self.candidates)

    @cached_property
    def known_beginnings(self) -> frozenset[str]:
        """How the words begin that any code's texts hold."""
        return frozenset(beginnings("\n".join(self.places.columns["text"].to_list())))

    def read(self, texts: Sequence[str]) -> Embeddings:
        """Points of texts with their words and the base's vectors; a text that occurs again is read once."""
        row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        rows = pl.DataFrame({"text": list(row), "code": [""] * len(row)}, schema={"text": pl.String, "code": pl.String})
        read = self.embedder.embed_with_base(rows)
        return read if len(row) == len(texts) else read.at(np.array([row[text] for text in texts]))

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n, L) calibrated probabilities of the `candidates`; rows sum to 1.

        A text that lists several activities is read whole and, unless it is well known as such, by its parts. One whose
        words are unknown, such as of another language, is answered with less certainty the fewer of them are known; an
        empty one with none.
        """
        return self.judge(texts).chances

    def predict(self, texts: Sequence[str], level: int = 6) -> np.ndarray:
        """(n,) the likeliest code of a level for each text, 2 to 6 digits."""
        chances = self.levels.probabilities(self.predict_proba(texts), level)
        return self.levels.codes[level][chances.argmax(axis=1)]

    @property
    def classes_(self) -> np.ndarray:
        """The candidates, under scikit-learn's name."""
        return self.candidates

    def search(self, texts: str | Sequence[str], k: int = 5, threshold: float = THRESHOLD) -> list[Answer]:
        """The k likeliest codes for each text, with all that helps to judge them.

        Args:
            threshold: the answer is the deepest code that is at least so probable.
        Raises:
            NaicsError: k or the threshold is not possible.
        """
        return answers(self, [texts] if isinstance(texts, str) else list(texts), k, threshold)

    def judge(self, texts: Sequence[str]) -> Judgement:
        """n texts read as they stand, then by the parts that count."""
        reading = Reading.of(texts, self.known_beginnings)
        read = self.read(reading.texts)
        whole = self.probable(read)
        reading = reading.where_parts_count(whole)
        of_parts = self.probable(self.read(reading.parts)).chances if reading.parts else whole.chances[:0]
        return Judgement(reading, read.points, of_parts, reading.together(whole, of_parts))

    def probable(self, read: Embeddings) -> Probable:
        """Of n texts as they stand."""
        return self.blend.probable({name: self.scorers[name].scores(read) for name in self.blend.blend.heard})

    def _points(self, frame: pl.DataFrame) -> Embeddings:
        spatial = torch.from_numpy(frame["point"].to_numpy().astype(np.float64))
        curvature = float(self.manifest["curvature"])
        is_flat = self.manifest["geometry"] != "lorentz"
        points = spatial if is_flat else lorentz.from_spatial(spatial, curvature=curvature)
        codes = frame["code"].to_numpy().astype(str)
        return Embeddings(
            codes, points.numpy(), curvature, self.manifest["geometry"], columns=frame.drop("code", "point")
        )


def version_of(manifest: dict[str, Any], precision: Precision) -> str:
    """`Index.version` of the index with this manifest, read in that precision."""
    version = str(manifest["index_version"])
    return version if precision == "float32" else f"{version}-{precision}"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an index whose files are all there and as they were written.

    Raises:
        ModelError: they are not, or it is no index of this format.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise ModelError(f"{path}: no index there ({MANIFEST} is missing). Materialize naics_index, or name another.")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind, version, files = manifest["format"], manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not the manifest of an index ({error!r}).") from error
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise ModelError(
            f"{file}: format {kind} {version}, and this version reads {FORMAT} {FORMAT_VERSION}. "
            "Materialize naics_index with it, or install the version that made this one."
        )
    for name in FILES:
        if not (path / name).is_file():
            raise ModelError(f"{path}: {name} is missing. Copy the whole directory again.")
        if files.get(name, {}).get("sha256") != checksum(path / name):
            raise ModelError(f"{path / name}: not as it was written (its checksum differs). Copy the index again.")
    return manifest


def _refuse_another_base(path: Path, manifest: dict[str, Any], base: str) -> None:
    if (found := weights_sha256(locate(base))) != manifest["base_sha256"]:
        raise ModelError(
            f"{path}: made with the base model of weights {manifest['base_sha256'][:12]}…, and "
            f"'{base}' has {found[:12]}…. Name the right one (--base)."
        )


def _of_scorer(name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.partition(".")[2]: values for key, values in tensors.items() if key.startswith(f"{name}.")}


def _without_training(checkpoint: Checkpoint) -> Checkpoint:
    """What reads texts, alone: no optimised scalars, no settings of sources and directories."""
    kept = {name: value for name, value in checkpoint.tensors.items() if name.startswith("model.")}
    record = checkpoint.record
    settings = {name: value for name, value in record["settings"].items() if name in _SETTINGS}
    return Checkpoint(kept, {"codes": record["codes"], "stage": record["stage"], "settings": settings})


def _with_points(texts: Embeddings) -> pl.DataFrame:
    """code, point (float32, without the time coordinate, which follows from the others), and kind and text."""
    spatial = texts.points[:, 1:] if texts.geometry == "lorentz" else texts.points
    point = pl.Series("point", spatial.astype(np.float32), dtype=pl.Array(pl.Float32, spatial.shape[1]))
    frame = pl.DataFrame({"code": texts.codes.tolist()}).with_columns(point)
    wanted = [name for name in ("kind", "text") if name in texts.columns]
    return frame.hstack(texts.columns.select(wanted)) if wanted else frame
