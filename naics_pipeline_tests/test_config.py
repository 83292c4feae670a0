"""Which value wins, what is refused, and that a message always says where the value came from."""

from pathlib import Path

import pytest

from naics_pipeline import config
from naics_pipeline.errors import SettingsError


@pytest.fixture
def project(tmp_path: Path) -> dict[str, str]:
    """A project directory with a small profile; the environment that points to it."""
    (tmp_path / "conf" / "profiles").mkdir(parents=True)
    (tmp_path / "conf" / "curriculum").mkdir()
    (tmp_path / "conf" / "curriculum" / "01_only.yaml").touch()
    write_profile(tmp_path, "sample", "seed: 1\ntraining:\n  weight_decay: 1e-3\n")
    write_profile(tmp_path, "other", "seed: 2\n")
    return {"NAICS_PROJECT_DIR": str(tmp_path)}


def write_profile(root: Path, name: str, text: str) -> None:
    (root / "conf" / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_later_layers_win_and_are_named(project):
    loaded = config.load(environ=project)
    assert loaded.settings.seed == 1
    assert loaded.settings.training.weight_decay == 1e-3
    assert loaded.origins["seed"] == "conf/profiles/sample.yaml"
    assert loaded.origins["graph.steps"] == "default"

    environ = project | {"NAICS_PROFILE": "other", "NAICS__SEED": "3"}
    loaded = config.load(environ=environ)
    assert (loaded.profile, loaded.settings.seed, loaded.origins["seed"]) == ("other", 3, "environment NAICS__SEED")

    loaded = config.load("sample", {"seed": "4"}, environ, overrides_from="run config")
    assert (loaded.profile, loaded.settings.seed, loaded.origins["seed"]) == ("sample", 4, "run config seed")


def test_text_values_take_the_type_of_their_setting(project):
    overrides = {"evaluation.cutoffs": "[1, 3]", "training.queries_per_epoch": "null", "model.base": "1234"}
    settings = config.load(None, overrides, project).settings
    assert settings.evaluation.cutoffs == (1, 3)
    assert settings.training.queries_per_epoch is None
    assert settings.model.base == "1234"


def test_relative_places_do_not_depend_on_the_working_directory(project, tmp_path, monkeypatch):
    (tmp_path / "workbooks").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    settings = config.load(None, {"source": "workbooks"}, project).settings
    assert settings.data_dir == str(tmp_path / "data")
    assert settings.curriculum == str(tmp_path / "conf" / "curriculum")
    assert settings.source == str(tmp_path / "workbooks")
    assert config.load(None, {"data_dir": "s3://bucket/x"}, project).settings.data_dir == "s3://bucket/x"


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("training: {weight_decy: 1}", ["sample.yaml", "'training.weight_decy'", "'training.weight_decay'"]),
        ("modle: {experts: 1}", ["sample.yaml", "'modle'"]),
        ("model: {experts: many}", ["sample.yaml", "model.experts", "'many'", "integer"]),
        ("seed: true", ["sample.yaml", "seed"]),
        ("seed: -1", ["sample.yaml", "seed", "-1"]),
        ("model: {experts: 2, top_k: 3}", ["sample.yaml", "model.top_k", "model.experts"]),
        ("vintage: 2017", ["sample.yaml", "vintage", "2022"]),
        ("source: nowhere", ["sample.yaml", "nowhere", "workbooks"]),
        ("curriculum: nowhere", ["sample.yaml", "nowhere", "stage file"]),
        ("evaluation: {cutoffs: [0]}", ["sample.yaml", "evaluation.cutoffs"]),
        ("seed: [", ["sample.yaml", "not valid YAML"]),
        ("- seed", ["sample.yaml", "list"]),
    ],
)
def test_a_bad_profile_is_refused(project, tmp_path, profile, says):
    write_profile(tmp_path, "sample", profile)
    with pytest.raises(SettingsError) as refusal:
        config.load(environ=project)
    for part in says:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "variables", "says"),
    [
        ({"model.adapters.short.rnk": "4"}, {}, ["--set", "'model.adapters.short.rank'"]),
        ({"steps": "4"}, {}, ["--set", "'graph.steps'"]),
        ({"seed": "[1"}, {}, ["--set seed", "[1"]),
        ({}, {"NAICS__GRAPH__STEPS": "x"}, ["NAICS__GRAPH__STEPS", "graph.steps"]),
        ({}, {"NAICS__GRAPH__STEP": "3"}, ["NAICS__GRAPH__STEP", "'graph.steps'"]),
        ({}, {"NAICS_VINTGE": "2017"}, ["NAICS_VINTGE", "NAICS_VINTAGE"]),
        ({}, {"NAICS_VINTAGE": "2020"}, ["NAICS_VINTAGE", "2017 or 2022"]),
        ({}, {"NAICS_PROFILE": "smaple"}, ["smaple", "other, sample"]),
        ({}, {"NAICS_PROJECT_DIR": "/nonexistent"}, ["/nonexistent", "NAICS_PROJECT_DIR"]),
    ],
)
def test_a_bad_override_or_variable_is_refused(project, overrides, variables, says):
    with pytest.raises(SettingsError) as refusal:
        config.load(None, overrides, project | variables)
    for part in says:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    "profile", [path.stem for path in (Path(__file__).parents[1] / "conf" / "profiles").glob("*.yaml")]
)
def test_every_bundled_profile_is_valid(profile, tmp_path):
    (tmp_path / "01_only.yaml").touch()
    overrides = {"source": "census", "curriculum": str(tmp_path)}
    assert config.load(profile, overrides, {}).profile == profile


def test_a_profile_that_is_no_text_is_refused(project, tmp_path):
    (tmp_path / "conf" / "profiles" / "sample.yaml").write_bytes(b"seed: 1\n\x80")
    with pytest.raises(SettingsError, match=r"sample.yaml: not valid YAML"):
        config.load(environ=project)


def test_one_underscore_too_few_is_not_passed_over(project):
    with pytest.raises(SettingsError, match="did you mean NAICS__EVALUATION__LABELLED"):
        config.load(environ=project | {"NAICS_EVALUATION__LABELLED": "texts.csv"})
    assert config.load(environ=project | {"NAICS_OF_ANOTHER_PROGRAM": "1"}).profile
