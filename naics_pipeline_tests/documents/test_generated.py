"""What the manual takes from the source: every message, setting, column and metric, in a form that can be read."""

import ast
import re
from pathlib import Path

import pytest

from docs.extensions import docstrings, generated, messages
from naics_pipeline import config
from naics_pipeline.evaluation import glossary


def raised_in(source: str, module: str = "anywhere.py") -> list[str]:
    tree = ast.parse(source)
    constants = messages.constants_of(tree)
    return [messages.template(argument, constants) for _, argument in messages.raised(tree, module)]


def test_a_message_is_read_with_the_names_of_what_is_filled_in():
    source = 'WAY = "Go."\nraise SourceError(f"{self.path}: {len(x)} of {a.b[0]}, {\', \'.join(x)}. " f"{WAY}")'
    assert raised_in(source) == ["‹path›: ‹number› of ‹b›, ‹…›. Go."]
    assert raised_in('table.refuse(bad, "code", "{code!r} is no code")') == ["‹code› is no code"]


def test_no_message_is_missed():
    """Every line of the source that raises one of our errors has a message in the list, or passes another one on."""
    listed = {(message.module, message.text) for message in messages.messages()}
    for file in messages.PACKAGE.rglob("*.py"):
        module, source = file.relative_to(messages.PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        tree = ast.parse(source)
        found = [
            messages.template(argument, messages.constants_of(tree)) for _, argument in messages.raised(tree, module)
        ]
        made = re.findall(rf"(?<!class )\b(?:{'|'.join(messages.ERRORS)})\(\s*f?[\"']", source)
        assert len(found) >= len(made), module
        assert all((module, text) in listed for text in found if messages.says_something(text))


def test_messages_say_more_than_what_is_filled_in():
    found = messages.messages()
    assert len(found) > 100
    assert {message.error for message in found} == messages.ERRORS.keys()
    lists = generated.message_lists()
    for message in found:
        assert " ".join(message.text.split()) in lists
    assert "model.top_k = ‹value› is not possible: more than model.experts" in lists


def test_every_setting_has_a_row_and_a_meaning():
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.*\| ([^|]*) \|$", generated.settings_page(), re.MULTILINE))
    assert rows.keys() == config.known_keys().keys()
    assert [key for key, meaning in rows.items() if not meaning.strip()] == []


def test_every_key_of_a_stage_has_a_meaning():
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| ([^|]*) \|$", generated.stage_keys(), re.MULTILINE)
    assert {"difficulty_buckets", "alpha", "mode", "until"} <= dict(rows).keys()
    assert [key for key, meaning in rows if not meaning.strip()] == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number ≥ 1"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, "number > 0 or null"),
        ({"enum": ["a", "b"], "type": "string"}, "`a` or `b`"),
        ({"type": "array", "items": {"type": "string"}}, "list: each a text"),
        ({}, "any value"),
    ],
)
def test_what_a_value_may_be_is_said_in_words(schema, words):
    assert generated.kind(schema, {}) == words


def test_tables_are_those_of_the_assets():
    tables = generated.column_tables()
    assert "`tree_distance`" in tables["distances"]
    assert "`ndcg@10`" in generated.metric_table(glossary.MAIN_STRUCTURE)
    assert "`gate`" in generated.check_table()
    assert generated.asset_table().index("descriptions") < generated.asset_table().index("refined_embeddings")


def test_the_picture_holds_every_asset_once():
    from naics_pipeline import definitions

    graph = definitions.defs.resolve_asset_graph()
    drawn = generated.lineage(graph)
    assert all(drawn.count(f">{key.to_user_string()}</text>") == 1 for key in graph.get_all_asset_keys())


def test_a_page_that_has_not_changed_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(generated, "DIRECTORY", tmp_path)
    monkeypatch.setattr(generated, "PARTS", tmp_path / "parts")
    generated.write_all()
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    (tmp_path / "stale.md").write_text("of an asset that is gone")
    generated.write_all()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == first


def test_docstrings_keep_their_formulas():
    assert docstrings.plain(["|v| < R, a * b, x_ of `code`."]) == [r"\|v\| < R, a \* b, x\_ of ``code``."]
    assert docstrings.plain(["Returns: (n, d)", "    of what"]) == ["", ":returns: (n, d)", "    of what"]


def test_every_page_is_in_the_contents():
    pages = {path.stem for path in (Path(generated.__file__).parents[1]).glob("*.md")} - {"index"}
    index = (Path(generated.__file__).parents[1] / "index.md").read_text()
    assert pages <= set(re.findall(r"^(\w+)$", index, re.MULTILINE))
