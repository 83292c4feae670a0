"""Every message of an error that this project raises on purpose, read from its source."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import naics_pipeline
from naics_pipeline import errors

PACKAGE = Path(naics_pipeline.__file__).parent
ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.NaicsError)
}
# Of these Pydantic makes a SettingsError; and `refuse`, of a workbook's table, raises a SourceError.
VALIDATED = ("settings.py", "text_model/curriculum/")


@dataclass(frozen=True)
class Message:
    """A message as it stands in the source.

    Attributes:
        module: path of the file below the package.
        error: name of the class that is raised.
        text: the name of what is filled in stands between ‹ and ›.
    """

    module: str
    error: str
    text: str


def messages() -> list[Message]:
    """All of them, file by file, each once."""
    found: dict[Message, None] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        module, tree = file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text(encoding="utf-8"))
        constants = constants_of(tree)
        for error, argument in raised(tree, module):
            text = template(argument, constants)
            if says_something(text):
                found.setdefault(Message(module, error, text))
    return list(found)


def says_something(text: str) -> bool:
    """Whether a message has words of its own, beside those of another one that it passes on."""
    return bool(re.search(r"\w", re.sub(r"‹[^›]*›", "", text)))


def raised(tree: ast.AST, module: str) -> Iterator[tuple[str, ast.expr]]:
    """Class and message of every error that is made in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "_check_together":
            yield from (("SettingsError", problem) for problem in _impossible(node))
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in ERRORS:
            yield name, node.args[0]
        elif name == "ValueError" and module.startswith(VALIDATED):
            yield "SettingsError", node.args[0]
        elif name == "refuse" and len(node.args) == 3:
            yield "SourceError", node.args[2]


def _impossible(checks: ast.FunctionDef) -> Iterator[ast.expr]:
    """The messages that are made of a list of (whether it is so, key, what is wrong)."""
    for row in ast.walk(checks):
        if isinstance(row, ast.Tuple) and len(row.elts) == 3 and isinstance(row.elts[1], ast.Constant):
            between = ast.Constant(f"{row.elts[1].value} = ‹value› is not possible: ")
            yield ast.BinOp(between, ast.Add(), row.elts[2])


def constants_of(tree: ast.AST) -> dict[str, str]:
    """Names of a file that stand for one text or number."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found |= {name.id: str(node.value.value) for name in node.targets if isinstance(name, ast.Name)}
    return found


def template(message: ast.expr, constants: Mapping[str, str]) -> str:
    """The text of a message, with what is filled in by its name."""
    if isinstance(message, ast.Constant):
        # A text that is formatted later.
        return re.sub(r"\{(\w+)(?:!\w)?\}", r"‹\1›", str(message.value))
    if isinstance(message, ast.JoinedStr):
        return "".join(template(part, constants) for part in message.values)
    if isinstance(message, ast.BinOp):
        return template(message.left, constants) + template(message.right, constants)
    value = message.value if isinstance(message, ast.FormattedValue) else message
    if isinstance(value, ast.Name) and value.id in constants:
        return constants[value.id]
    return f"‹{named(value)}›"


def named(value: ast.expr) -> str:
    """What a reader may call a value."""
    if isinstance(value, ast.Name):
        return value.id
    if isinstance(value, ast.Attribute):
        return value.attr.strip("_")
    if isinstance(value, ast.Subscript):
        return named(value.value)
    if isinstance(value, ast.BoolOp):
        return named(value.values[0])
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "len":
        return "number"
    return "…"
