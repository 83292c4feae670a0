"""Which code trains: what it depends on beside settings and texts."""

from functools import cache
from pathlib import Path

import naics_pipeline
from naics_pipeline.files import fingerprint

WITHOUT_EFFECT = ("devices", "nodes")
"""Settings of `training` that change how long it takes, and not what comes out."""
_READ_BY_TRAINING = ("text_model", "geometry", "taxonomy/tree.py", "taxonomy/triplets.py")


@cache
def code_version() -> str:
    """A hash of the source files that training runs through."""
    root = Path(naics_pipeline.__file__).parent
    places = [root / name for name in _READ_BY_TRAINING]
    files = sorted(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py")))
    return fingerprint(*(part for file in files for part in (file.relative_to(root).as_posix(), file)))
