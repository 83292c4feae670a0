"""The page as one text that asks nobody but this server."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from naics_pipeline.evaluation.explorer.page import policy_hash

_ROOM = Path(__file__).parent


def page() -> tuple[str, str]:
    """The page, and the content policy that it is sent with: its own script and style, requests to this server."""
    style, script = ((_ROOM / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {policy_hash(style)}; "
        f"script-src {policy_hash(script)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )
    environment = Environment(loader=FileSystemLoader(_ROOM), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(style=Markup(style), script=Markup(script)), policy
