"""The page as one file that needs nothing beside itself and may fetch nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from naics_pipeline.files import replacing

_ROOM = Path(__file__).parent
_STYLE = "page.css"
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
    style = (_ROOM / _STYLE).read_text(encoding="utf-8")
    script = "\n".join((_ROOM / "scripts" / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    policy = (
        f"default-src 'none'; img-src data:; style-src {policy_hash(style)}; script-src {policy_hash(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    environment = Environment(loader=FileSystemLoader(_ROOM), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        policy=policy, style=Markup(style), script=Markup(script), data=_json(content), about=content["about"]
    )


def policy_hash(text: str) -> str:
    """What a content policy calls a script or a style that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(content: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
