"""Pages as their readers have them."""

from pathlib import Path
from typing import Any


class OpenPage:
    """A page that was opened from a file, with what it said and what it asked for.

    Args:
        ready: selector of the last thing that the page fills in.
    """

    def __init__(self, browser: Any, path: Path, ready: str, **options: Any) -> None:
        self.path = path
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(ready)
