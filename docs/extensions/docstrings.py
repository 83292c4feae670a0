"""Docstrings are plain text with formulas in it: here what reStructuredText would take for markup is made plain."""

import re
from typing import Any

_CODE = re.compile(r"(`+[^`]+`+)")
_SECTION = re.compile(r"^(Returns|Raises): (?=\S)")


def setup(app: Any) -> dict[str, bool]:
    """Prepares each docstring before napoleon reads its sections."""
    app.connect("autodoc-process-docstring", _prepare, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _prepare(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)


def plain(lines: list[str]) -> list[str]:
    """The lines with `code` in double backticks, | * @ and trailing _ as characters, one-line sections as fields."""
    found = []
    for line in lines:
        if _SECTION.match(line):
            found.append("")
            line = _SECTION.sub(lambda match: f":{match[1].lower()}: ", line)
        found.append("".join(_escaped(part) for part in _CODE.split(line)))
    return found


def _escaped(part: str) -> str:
    if part.startswith("`"):
        return f"``{part.strip('`')}``"
    return re.sub(r"([|*@]|_(?!\w))", r"\\\1", part)
