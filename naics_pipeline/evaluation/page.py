"""What all pages have in common: templates, and styles and scripts that stand inside the page and are all that runs."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_NOTHING_ELSE = "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"


def templates(*rooms: Path) -> Environment:
    """Templates of these directories; whatever they show is escaped, and a name that is not given is an error."""
    return Environment(
        loader=FileSystemLoader(rooms), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@dataclass(frozen=True)
class Inline:
    """A style and a script as they stand in the page.

    Attributes:
        style, script: not escaped.
        policy: the content policy that lets these two run and pictures of the page itself be seen; nothing is fetched.
    """

    style: Markup
    script: Markup
    policy: str


def inline(styles: Sequence[Path], scripts: Sequence[Path], *, further: str = "", attributes: bool = False) -> Inline:
    """One style and one script, named in the policy by their hashes.

    Args:
        further: what the policy says besides, each part with a semicolon.
        attributes: elements have a style of their own.
    """
    style, script = ("\n".join(path.read_text(encoding="utf-8") for path in paths) for paths in (styles, scripts))
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    of_elements = "style-src-attr 'unsafe-inline'; " if attributes else ""
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; {of_elements}script-src {_hash(script)}; "
        f"{further}{_NOTHING_ELSE}"
    )
    return Inline(Markup(style), Markup(script), policy)


def _hash(text: str) -> str:
    """What a content policy calls a style or script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
