"""What the source says already and no page says a second time: written to docs/generated when the site is built."""

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import dagster as dg
from pydantic import BaseModel
from typer.cli import get_docs_for_click
from typer.main import get_command

import naics_pipeline
from docs.extensions.lineage import COLOURS, lineage
from docs.extensions.messages import ERRORS, messages
from naics_pipeline import cli, definitions
from naics_pipeline.evaluation import glossary
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.curriculum.stage import Stage

DIRECTORY = Path(__file__).parents[1] / "generated"
PARTS = DIRECTORY / "parts"
ROOMS = ("taxonomy", "geometry", "text_model", "graph_model", "scorers", "evaluation", "search", "serve")
BESIDE = ("config", "files", "storage", "errors", "failures", "executor", "progress", "definitions")
"""Modules of the API reference that are in no room."""


def setup(app: Any) -> dict[str, bool]:
    """Writes everything before the pages are read."""
    app.connect("builder-inited", lambda app: write_all())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_all() -> None:
    """Every generated page and part; one that has not changed is left alone, so that only changes are built again."""
    pages = {
        DIRECTORY / "settings.md": settings_page(),
        DIRECTORY / "commands.md": commands_page(),
        PARTS / "stage_keys.md": stage_keys(),
        PARTS / "messages.md": message_lists(),
        PARTS / "lineage.svg": lineage(definitions.defs.resolve_asset_graph()),
        PARTS / "assets.md": asset_table(),
        PARTS / "checks.md": check_table(),
        PARTS / "automation.md": automation_table(),
        PARTS / "readouts.md": readout_table(),
        **{PARTS / f"metrics_{name}.md": metric_table(rows) for name, rows in METRICS.items()},
        **{PARTS / f"columns_{name}.md": text for name, text in column_tables().items()},
        **{DIRECTORY / "api" / f"{name}.rst": text for name, text in api_pages().items()},
    }
    for stale in set(DIRECTORY.rglob("*.*")) - set(pages):
        stale.unlink()
    for path, content in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")


METRICS = {
    "structure": (*glossary.MAIN_STRUCTURE, *glossary.MORE_STRUCTURE),
    "queries": (*glossary.QUERIES, glossary.UNREPEATED),
    "labelled": glossary.LABELLED,
    "tasks": glossary.TASKS,
    "calibration": glossary.CALIBRATION,
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def settings_page() -> str:
    """A table per section of the settings."""
    top = [name for name, field in Settings.model_fields.items() if not _is_section(field.annotation)]
    parts = ["# Every setting\n", _INTRODUCTION, key_table(Settings, only=top)]
    for name, section in _sections(Settings):
        described = inspect.cleandoc(section.__doc__) if section.__doc__ else ""
        parts += [f"## {name}\n", f"{described}\n", key_table(section, prefix=f"{name}.")]
    return "\n".join(parts)


_INTRODUCTION = """\
The defaults are those of `naics_pipeline/settings.py`; a profile of `conf/profiles` replaces some of them. How to set a
value is told in [configuration](../configuration.md). `naics config` prints the values in force and where each is from.
"""


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            assert field.annotation is not None
            yield f"{prefix}{name}", field.annotation
            yield from _sections(field.annotation, f"{prefix}{name}.")


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def key_table(
    model: type[BaseModel], prefix: str = "", only: Sequence[str] | None = None, skipped: Sequence[str] = ()
) -> str:
    """Key, kind and bounds, default and meaning of each field that is no section."""
    schema = model.model_json_schema()
    # A section that may hold others of its kind stands among the definitions itself.
    own = schema if "properties" in schema else schema["$defs"][model.__name__]
    rows = []
    for name, field in model.model_fields.items():
        if name in skipped or _is_section(field.annotation) or (only is not None and name not in only):
            continue
        default = "required" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        said = field.description or next((note.description for note in field.metadata if _described(note)), "")
        rows.append([f"`{prefix}{name}`", kind(own["properties"][name], schema), default, said])
    return table(["key", "value", "default", "meaning"], rows)


def _described(note: Any) -> bool:
    return bool(getattr(note, "description", None))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def kind(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What a value may be, in words: "whole number ≥ 1", "`dcl` or `infonce`"."""
    if "$ref" in schema:
        return kind(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(one, root) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    names = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    words = {**names, "array": "list", "object": "mapping", "null": "null"}.get(schema.get("type", ""), "any value")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema)
    items = f": each a {kind(schema['items'], root)}" if schema.get("items") else ""
    return f"{words} {bounds}".strip() + items


def stage_keys() -> str:
    """The keys of a stage file, and those of each section that it may hold."""
    sections = _models_in([field.annotation for field in Stage.model_fields.values()], {})
    further = [
        f"**`{name}`**: {inspect.getdoc(section)}\n\n{key_table(section, skipped=('kind',))}"
        for name, section in sections.items()
    ]
    return "\n".join([key_table(Stage, skipped=("name",)), *further])


def _models_in(annotations: Iterable[Any], found: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """Every section that the annotations name, by its kind where it has one; each once, as it comes."""
    for annotation in annotations:
        if not _is_section(annotation):
            _models_in(get_args(annotation), found)
        elif annotation not in found.values():
            named = annotation.model_fields.get("kind")
            name = re.sub("(?<=[a-z])(?=[A-Z])", "_", annotation.__name__).lower()
            found[f"kind: {named.default}" if named else name] = annotation
            _models_in((field.annotation for field in annotation.model_fields.values()), found)
    return found


def commands_page() -> str:
    """Every command of `naics` with its options, as its --help says."""
    command = get_command(cli.app)
    context = command.make_context("naics", [], resilient_parsing=True)
    said = get_docs_for_click(obj=command, ctx=context, name="naics")
    return said.replace("# `naics`", "# Every command", 1).replace("```console", "```text")


def message_lists() -> str:
    """Every message that is raised on purpose, by the kind of error."""
    found, parts = messages(), []
    for error, described in ERRORS.items():
        ours = sorted({(message.text, message.module) for message in found if message.error == error})
        if ours:
            parts.append(f"### {error}\n\n{inspect.getdoc(described)}\n")
            parts.append("".join(f"- {_code(text)} <br> *{module}*\n" for text, module in ours))
    return "\n".join(parts)


def _code(text: str) -> str:
    line = " ".join(text.split())
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def metric_table(metrics: Sequence[glossary.Metric]) -> str:
    """Name, direction and reading of each."""
    better = {"higher": "higher", "lower": "lower", None: "–"}
    return table(
        ["metric", "better", "reading"],
        [[f"`{metric.name}`", better[metric.better], metric.reading] for metric in metrics],
    )


def readout_table() -> str:
    """How a text is held against the codes."""
    return table(["scorer", "by"], [[f"`{name}`", said] for name, said in glossary.READOUTS.items()])


def _assets() -> list[dg.AssetSpec]:
    return sorted(definitions.defs.resolve_all_asset_specs(), key=lambda spec: spec.key.to_user_string())


def column_tables() -> dict[str, str]:
    """Asset → its columns with type and meaning, of every asset that has a column schema."""
    return {
        spec.key.to_user_string(): table(
            ["column", "type", "content"],
            [[f"`{c.name}`", c.type, c.description or ""] for c in spec.metadata["dagster/column_schema"].columns],
        )
        for spec in _assets()
        if "dagster/column_schema" in spec.metadata
    }


def asset_table() -> str:
    """Every asset, group by group, in the order in which they are made."""
    graph = definitions.defs.resolve_asset_graph()
    order = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level)]
    specs = {spec.key: spec for spec in _assets()}
    groups = [*COLOURS, *sorted({str(specs[key].group_name) for key in order} - COLOURS.keys())]
    rows = [
        [f"`{key.to_user_string()}`", str(group), (specs[key].description or "").partition("\n")[0]]
        for group in groups
        for key in order
        if specs[key].group_name == group
    ]
    return table(["asset", "group", "what it is"], rows)


def check_table() -> str:
    """Every asset check."""
    graph = definitions.defs.resolve_asset_graph()
    rows = []
    for key in sorted(graph.asset_check_keys, key=lambda key: (key.asset_key.to_user_string(), key.name)):
        node = graph.get(key)
        rows.append([f"`{key.asset_key.to_user_string()}`", f"`{key.name}`", node.description or ""])
    return table(["asset", "check", "what it asks"], rows)


def automation_table() -> str:
    """Jobs, schedules and sensors."""
    given = definitions.defs
    rows = [
        [f"`{thing.name}`", what, " ".join((thing.description or "").split())]
        for what, things in (("job", given.jobs), ("schedule", given.schedules), ("sensor", given.sensors))
        for thing in things or []
    ]
    return table(["name", "kind", "what it does"], rows)


def api_pages() -> dict[str, str]:
    """A page per room, with every public module in it, and one for what stands beside them."""
    pages = {room: _api_page(room, list(_modules(f"naics_pipeline.{room}"))) for room in ROOMS}
    return pages | {"beside": _api_page("Beside the rooms", [f"naics_pipeline.{name}" for name in BESIDE])}


def _modules(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    if module.__doc__:
        yield name
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not found.name.startswith("_"):
            yield from _modules(f"{name}.{found.name}")


def _api_page(title: str, modules: Sequence[str]) -> str:
    parts = [title, "=" * len(title), ""]
    for name in modules:
        short = name.removeprefix(f"{naics_pipeline.__name__}.")
        parts += [short, "-" * len(short), "", f".. automodule:: {name}", ""]
    return "\n".join(parts)
