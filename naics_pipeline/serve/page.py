"""The page as one text that asks nobody but this server."""

from pathlib import Path

from naics_pipeline.evaluation.page import inline, templates

_ROOM = Path(__file__).parent


def page() -> tuple[str, str]:
    """The page, and the content policy that it is sent with: its own script and style, requests to this server."""
    further = "connect-src 'self'; frame-ancestors 'none'; "
    parts = inline([_ROOM / "page.css"], [_ROOM / "page.js"], further=further)
    return templates(_ROOM).get_template("page.html").render(parts=parts), parts.policy
