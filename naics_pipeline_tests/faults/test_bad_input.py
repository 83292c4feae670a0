"""Five hundred bad inputs of each kind: only our own errors come out, or the input was good after all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naics_pipeline import config
from naics_pipeline.errors import NaicsError
from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import census, text, tree
from naics_pipeline.text_model.curriculum.stage import load_curriculum
from naics_pipeline.text_model.embeddings import Embeddings, read_embeddings, write_embeddings
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.taxonomy.workbooks import small_source

pytestmark = pytest.mark.slow
often = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

ODD_TEXTS = st.one_of(
    st.sampled_from(["", " ", "NULL", "\ufeff", "11", "1", "999999", "31-33", "-1", "1e999", "nan", "'", "11.0"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
)
ODD_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ODD_TEXTS, st.dates()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXTS | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@contextmanager
def refusals_that_name(*places: str) -> Iterator[None]:
    """Lets an error of ours pass that says where it found what is wrong: in one of these."""
    try:
        yield
    except NaicsError as error:
        message = str(error)
    else:
        return
    assert any(place in message for place in places), message


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Truncated, or with some bytes others."""
    place = draw.draw(st.integers(0, max(0, len(content) - 1)))
    if draw.draw(st.booleans()):
        return content[:place]
    other = draw.draw(st.binary(min_size=1, max_size=8))
    return content[:place] + other + content[place + len(other) :]


def replaced(content: dict, draw: st.DataObject) -> dict:
    """With one value another, one key gone, or one key more."""
    content = dict(content)
    name = draw.draw(st.sampled_from(sorted(content))) if content else ""
    what = draw.draw(st.sampled_from(["value", "gone", "more", "inner"]))
    if what == "gone":
        content.pop(name, None)
    elif what == "more":
        content[draw.draw(ODD_TEXTS)] = draw.draw(ODD_VALUES)
    elif what == "inner" and isinstance(content.get(name), dict):
        content[name] = replaced(content[name], draw)
    else:
        content[name] = draw.draw(ODD_VALUES)
    return content


@often
@given(draw=st.data())
def test_workbooks_with_other_cells(draw):
    source = small_source()
    for _ in range(draw.draw(st.integers(1, 3))):
        table = draw.draw(st.sampled_from(["codes", "descriptions", "index", "cross_references"]))
        if table in ("codes", "descriptions"):
            content = getattr(source, table)
            key = draw.draw(st.sampled_from(sorted(content)))
            value = content.pop(key)
            if draw.draw(st.booleans()):
                content[draw.draw(ODD_TEXTS)] = value
            elif draw.draw(st.booleans()):
                content[key] = draw.draw(ODD_TEXTS)
        else:
            getattr(source, table).append((draw.draw(ODD_TEXTS), draw.draw(ODD_TEXTS)))
    with tempfile.TemporaryDirectory() as directory:
        reads_or_refuses(source.write(Path(directory) / "source"))


@often
@given(draw=st.data())
def test_workbooks_with_other_bytes(draw):
    with tempfile.TemporaryDirectory() as directory:
        source = small_source().write(Path(directory) / "source")
        path = draw.draw(st.sampled_from(sorted(source.iterdir())))
        path.write_bytes(damaged(path.read_bytes(), draw))
        reads_or_refuses(source)


def reads_or_refuses(source: Path) -> None:
    """All that is made of workbooks before training."""
    with refusals_that_name(str(source)):
        books = census.read_source(str(source), 2022, Download(), source / "cache")
        entries = text.index_entries(books, 0.2, 0.08)
        frame = text.descriptions(books, entries)
        text.activity_phrases(books, frame, entries)
        tree.distances(frame)


@often
@given(draw=st.data())
def test_curriculum_files(draw):
    with tempfile.TemporaryDirectory() as directory:
        for path in sorted((REPOSITORY / "conf" / "curriculum").glob("*.yaml")):
            Path(directory, path.name).write_bytes(path.read_bytes())
        path = draw.draw(st.sampled_from(sorted(Path(directory).glob("*.yaml"))))
        if draw.draw(st.booleans()):
            path.write_bytes(damaged(path.read_bytes(), draw))
        else:
            path.write_text(yaml.safe_dump(replaced(yaml.safe_load(path.read_text()), draw)))
        with refusals_that_name(directory):
            load_curriculum(Path(directory))


@often
@given(draw=st.data())
def test_profile_files(draw):
    with tempfile.TemporaryDirectory() as directory:
        profiles = Path(directory) / "conf" / "profiles"
        profiles.mkdir(parents=True)
        (Path(directory) / "conf" / "curriculum").mkdir()
        (Path(directory) / "conf" / "curriculum" / "01_only.yaml").touch()
        path = profiles / "sample.yaml"
        content = (REPOSITORY / "conf" / "profiles" / "sample.yaml").read_bytes()
        if draw.draw(st.booleans()):
            path.write_bytes(damaged(content, draw))
        else:
            path.write_text(yaml.safe_dump(replaced(yaml.safe_load(content), draw)))
        with refusals_that_name("sample.yaml", "default"):
            config.load("sample", {}, {"NAICS_PROJECT_DIR": directory})


@often
@given(draw=st.data())
def test_settings_from_every_source(draw):
    key = draw.draw(st.sampled_from(sorted(config.known_keys())) | ODD_TEXTS)
    value = draw.draw(ODD_VALUES)
    said = value if isinstance(value, str) else yaml.safe_dump(value).removesuffix("...\n").strip()
    name = "NAICS__" + key.upper().replace(".", "__")
    for overrides, environment, origin in (({key: said}, {}, "--set"), ({}, {name: said}, "environment")):
        with refusals_that_name(origin):
            config.load("sample", overrides, environment)


@often
@given(draw=st.data())
def test_embeddings_and_query_files(draw):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "text_embeddings.parquet"
        codes = np.array(["11", "111", "1111"])
        points = np.array([[1.0, 0.0], [2.0, np.sqrt(3.0)], [3.0, np.sqrt(8.0)]])
        write_embeddings(Embeddings(codes=codes, points=points), path)
        if draw.draw(st.booleans()):
            path.write_bytes(damaged(path.read_bytes(), draw))
        else:
            frame = pl.read_parquet(path)
            name = draw.draw(st.sampled_from(frame.columns))
            other = draw.draw(
                st.sampled_from(
                    [
                        pl.lit(None),
                        pl.lit("x"),
                        pl.lit(1),
                        pl.lit(float("nan")),
                        pl.lit([]),
                        pl.lit([1.0, None]),
                        pl.lit(b"x"),
                    ]
                )
            )
            changed = frame.drop(name) if draw.draw(st.booleans()) else frame.with_columns(other.alias(name))
            changed[: draw.draw(st.integers(0, 3))].write_parquet(path)
        with refusals_that_name(str(path)):
            read_embeddings(path)
