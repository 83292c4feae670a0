"""Every command and setting that the pages show exists as it is written there; the quick ones run."""

import ast
import importlib
import itertools
import re
import tomllib

import click
import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from mlflow.cli import cli as mlflow_cli
from typer.main import get_command
from typer.testing import CliRunner

from naics_pipeline import cli, config, definitions
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.embeddings import Embeddings, write_embeddings
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.documents.pages import PAGES, Line, blocks, command_lines, mentioned

LINES = command_lines()
READ_BY_OTHERS = {"MLFLOW_TRACKING_URI", "OMP_NUM_THREADS", "AWS_ENDPOINT_URL", "NAICS_CACHE_DIR"}
CHECKED_ELSEWHERE = {"dagster", "dg", "export", "make", "mlflow", "naics", "pip", "python"}
QUICK = ("config", "nearest", "explore", "export", "evaluate", "downstream")


def lines_of(*program: str) -> list[Line]:
    found = [line for line in LINES if line.words[: len(program)] == program]
    assert found, f"no page shows {' '.join(program)}"
    return found


def value_of(line: Line, *options: str) -> str:
    return next(value for option, value in itertools.pairwise(line.words) if option in options)


@pytest.mark.parametrize("line", [line for line in LINES if line.words[0] not in CHECKED_ELSEWHERE], ids=str)
def test_a_command_of_another_program_is_one_we_know(line):
    known = {"source conf/env.sh", "source .venv/bin/activate", "python3.11 -m venv .venv", "pytest"}
    others = {"cp", "curl", "docker", "kubectl", "torchrun", "uv", ".venv/bin/python"}
    assert " ".join(line.words) in known or line.words[0] in others
    paths = [word for word in line.words if word.startswith("deploy/") and word != "deploy/.env"]
    assert all((REPOSITORY / path).is_file() for path in paths)


def mentions_of(program: str) -> list[Line]:
    return [line for line in mentioned() if line.words[0] == program]


@pytest.mark.parametrize("line", [*lines_of("make"), *mentions_of("make")], ids=str)
def test_a_make_target_exists(line):
    assert re.search(rf"^{line.words[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", lines_of("naics"), ids=str)
def test_a_naics_command_takes_its_arguments(line):
    group, arguments = get_command(cli.app), list(line.words[1:])
    name, command, rest = group.resolve_command(group.make_context("naics", arguments), arguments)
    command.make_context(name, rest)


@pytest.mark.parametrize("line", mentions_of("naics"), ids=str)
def test_a_naics_command_in_a_sentence_exists_with_its_options(line):
    group, arguments = get_command(cli.app), list(line.words[1:])
    _, command, rest = group.resolve_command(group.make_context("naics", arguments), arguments)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= known


@pytest.mark.parametrize("line", lines_of("mlflow"), ids=str)
def test_an_mlflow_command_takes_its_arguments(line):
    command, arguments = mlflow_cli, list(line.words[1:])
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(command.make_context("mlflow", arguments), arguments)
    command.make_context(name, arguments)


@pytest.mark.parametrize("line", [*lines_of("dagster", "asset"), *lines_of("dg", "launch")], ids=str)
def test_a_selection_names_assets(line):
    selection = value_of(line, "--select", "--assets").split(",")
    assert dg.AssetSelection.from_coercible(selection).resolve(definitions.defs.resolve_asset_graph())


@pytest.mark.parametrize("line", lines_of("dagster", "job"), ids=str)
def test_a_job_exists(line):
    assert value_of(line, "-m", "--module-name") == definitions.__name__
    assert definitions.defs.resolve_job_def(value_of(line, "-j", "--job"))


@pytest.mark.parametrize("line", lines_of("export"), ids=str)
def test_an_exported_variable_is_one_that_is_read(line):
    name, _, value = line.words[1].partition("=")
    if name.startswith("NAICS__"):
        key = name.removeprefix("NAICS__").replace("__", ".").lower()
        assert key in config.known_keys()
    else:
        assert name in {*config.VARIABLES, *config.OTHER_VARIABLES, *READ_BY_OTHERS}
    if name == "NAICS_PROFILE":
        assert (REPOSITORY / "conf" / "profiles" / f"{value}.yaml").is_file()


@pytest.mark.parametrize("line", [*lines_of("pip", "install"), *lines_of("uv", "pip", "install")], ids=str)
def test_an_extra_exists(line):
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"\[([\w,]+)\]", line.words[-1])
    assert {extra for extras in asked for extra in extras.split(",")} <= known.keys()


@pytest.mark.parametrize("line", lines_of("python", "-c"), ids=str)
def test_a_line_of_python_is_one(line):
    ast.parse(line.words[2])


@pytest.fixture(scope="module")
def built(sample_descriptions, sample_tree, tmp_path_factory):
    """A directory in which data/ holds points of both models, and the files that the pages name lie."""
    root = tmp_path_factory.mktemp("built")
    (root / "data").mkdir()
    tangents = torch.from_numpy(np.random.default_rng(0).normal(size=(len(sample_tree), 8)))
    for name in ("text", "refined"):
        points = Embeddings(sample_tree.codes, lorentz.exp0(tangents).numpy())
        write_embeddings(points, root / "data" / f"{name}_embeddings.parquet")
    sample_descriptions.write_parquet(root / "data" / "descriptions.parquet")
    write_embeddings(points, root / "mine.parquet")
    numbers = pl.DataFrame({"code": sample_tree.codes.tolist(), "wage": range(len(sample_tree))})
    for name in ("mine.csv", "wages.csv"):
        numbers.write_csv(root / name)
    return root


@pytest.mark.parametrize("line", [line for line in lines_of("naics") if line.words[1] in QUICK], ids=str)
def test_a_quick_command_runs(line, built, monkeypatch):
    monkeypatch.chdir(built)
    monkeypatch.setenv("NAICS_DATA_DIR", str(built / "data"))
    result = CliRunner().invoke(cli.app, list(line.words[1:]))
    assert result.exit_code == 0, result.output
    assert result.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_run_config_is_accepted(page):
    job = definitions.defs.resolve_job_def("full_pipeline")
    for code in blocks("yaml", page):
        given = yaml.safe_load(code)
        if {"resources", "execution"} & given.keys():
            assert dg.validate_run_config(job, given)
            overrides = given.get("resources", {}).get("conf", {}).get("config", {}).get("overrides", {})
            loaded = config.load("sample", overrides, {})
            assert {loaded.origins[key] for key in overrides} == {f"--set {key}" for key in overrides}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_that_is_named_exists(page):
    keys = set(config.known_keys())
    sections = {name for name in Settings.model_fields if name not in keys}
    known = keys | {".".join(key.split(".")[:depth]) for key in keys for depth in (1, 2, 3)}
    named = re.findall(r"`(\w+(?:\.\w+)+)(?:: [\w.]+|=[\w./]+)?`", page.read_text(encoding="utf-8"))
    files = (".py", ".parquet")
    assert {name for name in named if name.split(".")[0] in sections and not name.endswith(files)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_is_linked_exists(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    made = ("http", "generated/")
    assert [t for t in targets if not t.startswith(made) and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_python_imports_exists(page):
    for code in blocks("python", page):
        # Those that begin with a file's name are run in test_examples.py.
        tree = ast.parse("" if code.startswith("# naics_pipeline") else code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)
