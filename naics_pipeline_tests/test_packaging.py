"""What is installed: every version written down, and a wheel that needs no checkout beside it."""

import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from naics_pipeline_tests.conftest import REPOSITORY

SCRIPT = runpy.run_path(str(REPOSITORY / ".ci" / "constraints.py"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def written() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_dependency_has_a_tested_version_that_fits():
    listed = written()
    direct = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, direct):
        if (name := SCRIPT["name_of"](requirement.name)) != "naics-pipeline":
            assert requirement.specifier.contains(listed[name], prereleases=True), f"{name}: run `make constraints`"


def test_the_list_is_complete_here():
    absent = SCRIPT["constraints"]().keys() - written().keys()
    assert not absent, "run `make constraints`"


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9"}])
def test_what_torch_reads_when_it_starts_is_set_before_and_left_where_it_was_set(own: dict[str, str]):
    names = ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    script = f"import naics_pipeline, os, sys; print('torch' in sys.modules, *(os.environ[name] for name in {names}))"
    bare = {name: value for name, value in os.environ.items() if name not in names}
    said = subprocess.run([sys.executable, "-c", script], env=bare | own, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", *(own or {"": "1000", " ": "64"}).values()]


def test_the_pythons_that_are_promised_are_named():
    promised = SpecifierSet(PROJECT["requires-python"])
    classified = {name.rsplit(" ", 1)[-1] for name in PROJECT["classifiers"] if "Python :: 3." in name}
    assert classified == {f"3.{minor}" for minor in range(8, 20) if f"3.{minor}.0" in promised}


@pytest.mark.slow
def test_a_wheel_runs_the_sample_outside_the_repository(tmp_path, tiny_base):
    """In an environment that sees the libraries of this one and nothing of the checkout."""
    source = tmp_path / "source"
    unwanted = (".*", "data", "*.egg-info", "build", "storage", "history", "running")
    shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(*unwanted))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    (libraries,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # Below what was installed: the libraries, not their editable link to this checkout.
    borrowed = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (libraries / "borrowed.pth").write_text(f"{borrowed}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        "PATH": f"{python.parent}:{borrowed.parents[2] / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "NAICS__MODEL__BASE": str(tiny_base),
        "NAICS__TRAINING__EPOCHS_SCALE": "0.1",
        "NAICS__TRAINING__QUERIES_PER_EPOCH": "64",
        "NAICS__GRAPH__STEPS": "60",
        "NAICS__GRAPH__LEFT_OUT_FRACTION": "0",
        "NAICS__EVALUATION__BASELINES": "false",
    }
    program = """
import naics_pipeline
from naics_pipeline.definitions import defs
print(naics_pipeline.__file__)
assert defs.resolve_job_def("full_pipeline").execute_in_process().success
"""
    result = subprocess.run(
        [python, "-c", program],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert Path(result.stdout.splitlines()[0]).is_relative_to(libraries)
    assert (elsewhere / "data" / "reports" / "index.html").is_file()
