"""What stands on the pages that people read: README, CONTRIBUTING and the manual."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from naics_pipeline_tests.conftest import REPOSITORY

PAGES = (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md")))


@dataclass(frozen=True)
class Line:
    """A command as a page shows it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(language: str, page: Path) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def block(first_line: str) -> str:
    """The one block of all pages that begins with this line."""
    languages = ("python", "yaml")
    every = [code for page in PAGES for language in languages for code in blocks(language, page)]
    (found,) = [code for code in every if code.startswith(first_line)]
    return found


def command_lines() -> list[Line]:
    """Every command of every bash block; what && joins, apart."""
    found = {
        Line(page.name, tuple(words)): None
        for page in PAGES
        for code in blocks("bash", page)
        for line in code.replace("\\\n", " ").splitlines()
        for part in line.split(" && ")
        if (words := shlex.split(part, comments=True))
    }
    return list(found)


def mentioned() -> list[Line]:
    """Every command of ours that a sentence names, perhaps without its arguments."""
    found = {
        Line(page.name, tuple(code.split())): None
        for page in PAGES
        for code in re.findall(r"(?<!`)`((?:naics|make)\s[^`]+)`", page.read_text(encoding="utf-8"))
    }
    return list(found)
