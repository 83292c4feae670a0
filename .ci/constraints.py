"""Prints every version that this environment has of what the project needs, directly or not: constraints.txt.

python .ci/constraints.py            # of the environment that the tests passed in
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

OF_A_BUILD = ("cuda-", "nvidia-", "triton")
"""PyTorch's build for CUDA brings them in versions of its own choice, the one for the CPU has none of them."""
HEADER = "# Every version that was tested, made by `make constraints`; pip install -c constraints.txt -e '.[dev]'"


def name_of(requirement: str) -> str:
    """The name in the form that the index compares."""
    return re.sub(r"[-_.]+", "-", requirement).lower()


def closure(name: str, extras: frozenset[str], found: dict[str, str], seen: set[tuple[str, frozenset[str]]]) -> None:
    """Adds to `found` what a distribution with these extras needs here."""
    if (name, extras) in seen or name.startswith(OF_A_BUILD):
        return
    seen.add((name, extras))
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise SystemExit(f"{name} is not installed: run `make test` first, or pip install -e '.[dev]'.") from None
    # Without a label such as +cpu: which build it is, is a matter of the machine.
    found[name] = Version(distribution.version).public
    for text in distribution.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            closure(name_of(requirement.name), frozenset(requirement.extras), found, seen)


def constraints() -> dict[str, str]:
    """Distribution → version, for the project with all its extras."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in map(Requirement, requirements):
            if requirement.name != project["name"]:
                closure(name_of(requirement.name), frozenset(requirement.extras), found, seen)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    print(HEADER)
    print("\n".join(f"{name}=={version}" for name, version in constraints().items()))
