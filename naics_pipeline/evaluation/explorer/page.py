"""The page as one file that needs nothing beside itself and may fetch nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from naics_pipeline.evaluation.page import inline, templates
from naics_pipeline.files import replacing

_ROOM = Path(__file__).parent
_SCRIPTS = (
    "hyperbolic.js",
    "model.js",
    "colours.js",
    "drawing.js",
    "labels.js",
    "disk.js",
    "table.js",
    "charts.js",
    "panel.js",
    "main.js",
)


def write_explorer(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the page; a reader sees the old one or the new one, never a part."""
    page = render(content)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(content: Mapping[str, Any]) -> str:
    """The page as text.

    Styles and scripts are named in the content policy by their hashes; nothing else runs, and no address is allowed.

    Args:
        content: as `explorer_content` gives it.
    """
    parts = inline([_ROOM / "page.css"], [_ROOM / "scripts" / name for name in _SCRIPTS])
    page = templates(_ROOM).get_template("page.html")
    return page.render(parts=parts, data=_json(content), about=content["about"])


def _json(content: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
