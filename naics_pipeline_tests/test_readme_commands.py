"""Every command and configuration that README.md shows exists as it is written there."""

import itertools
import re
import shlex

import dagster as dg
import pytest
import yaml
from typer.main import get_command

from naics_pipeline import config, definitions
from naics_pipeline.cli import app
from naics_pipeline_tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
LINES = [
    shlex.split(part, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    for part in line.split("#")[0].split("&&")
    if part.strip()
]


def lines_of(*program: str) -> list[list[str]]:
    found = [line for line in LINES if tuple(line[: len(program)]) == program]
    assert found, f"README.md shows no {' '.join(program)}"
    return found


def value_of(line: list[str], *options: str) -> str:
    return next(value for option, value in itertools.pairwise(line) if option in options)


@pytest.mark.parametrize("line", lines_of("make"), ids=" ".join)
def test_a_make_target_exists(line):
    assert re.search(rf"^{line[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", lines_of("naics"), ids=" ".join)
def test_a_naics_command_takes_its_arguments(line):
    group = get_command(app)
    name, command, rest = group.resolve_command(group.make_context("naics", line[1:]), line[1:])
    command.make_context(name, rest)


@pytest.mark.parametrize("line", [*lines_of("dagster", "asset"), *lines_of("dg", "launch")], ids=" ".join)
def test_a_selection_names_assets(line):
    selection = value_of(line, "--select", "--assets").split(",")
    assert dg.AssetSelection.from_coercible(selection).resolve(definitions.defs.resolve_asset_graph())


@pytest.mark.parametrize("line", lines_of("dagster", "job"), ids=" ".join)
def test_a_job_exists(line):
    assert value_of(line, "-m", "--module-name") == definitions.__name__
    assert definitions.defs.resolve_job_def(value_of(line, "-j", "--job"))


@pytest.mark.parametrize("line", lines_of("export"), ids=" ".join)
def test_an_exported_variable_is_one_that_is_read(line):
    name = line[1].partition("=")[0]
    assert name in config.VARIABLES or name in config.OTHER_VARIABLES


def test_the_run_config_is_accepted():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    given = yaml.safe_load(block)
    overrides = given["resources"]["conf"]["config"]["overrides"]
    loaded = config.load("sample", overrides, {})
    assert {loaded.origins[key] for key in overrides} == {f"--set {key}" for key in overrides}
    assert dg.validate_run_config(definitions.defs.resolve_job_def("full_pipeline"), given)
