"""What Dagster is given: names, groups, versions, and that all the places which name the module agree."""

import os
import subprocess
import sys
import tomllib

import dagster as dg
import pytest
import yaml

from naics_pipeline import definitions
from naics_pipeline.assets import common
from naics_pipeline.assets.text_model import STAGES, stage_asset
from naics_pipeline.text_model.curriculum.stage import load_curriculum
from naics_pipeline_tests.conftest import REPOSITORY

GRAPH = definitions.defs.resolve_asset_graph()
NODES = {key.path[-1]: GRAPH.get(key) for key in GRAPH.get_all_asset_keys()}
GROUPS = {
    "taxonomy": {"descriptions", "index_entries", "activity_phrases", "relations", "distances"},
    "training_data": {"triplets", "token_cache"},
    "text_model": {"stage_00_short_text", "stage_01_easy", "stage_02_medium", "stage_03_hard", "text_embeddings"},
    "graph_model": {"refined_embeddings"},
    "evaluation": {"text_evaluation", "refined_evaluation", "evaluation_report"},
    "search": {"naics_index", "naics_model"},
}


def test_the_assets_and_their_groups():
    found = {group: {name for name, node in NODES.items() if node.group_name == group} for group in GROUPS}
    assert found == GROUPS
    assert set(NODES) == set.union(*GROUPS.values())


@pytest.mark.parametrize("name", sorted(NODES))
def test_every_asset_says_what_it_is(name):
    node = NODES[name]
    assert node.description.startswith("One ")
    assert node.owners == common.OWNERS
    assert any(tag.startswith("dagster/kind/") for tag in node.tags)
    assert node.code_version
    assert node.partitions_def is None


def test_only_training_waits_for_the_accelerator():
    trained = {name for name, node in NODES.items() if node.pools}
    assert trained == {f"stage_{stage.name}" for stage in STAGES} | {"refined_embeddings"}
    assert all(NODES[name].pools == {"gpu"} for name in trained)


def test_triplets_plus_is_everything_that_training_renews():
    """The command line's bare `triplets+` goes one step down only."""
    everything = dg.AssetSelection.from_string('key:"triplets"+').resolve(GRAPH)
    assert dg.AssetSelection.from_coercible(["triplets+"]).resolve(GRAPH) == everything
    assert {key.path[-1] for key in everything} == (
        GROUPS["text_model"] | GROUPS["graph_model"] | GROUPS["evaluation"] | GROUPS["search"] | {"triplets"}
    )


def test_a_file_in_the_curriculum_is_a_stage(tmp_path):
    for path in (REPOSITORY / "conf" / "curriculum").glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "04_more.yaml").write_text((tmp_path / "03_hard.yaml").read_text())
    added = stage_asset(load_curriculum(tmp_path)[-1])
    assert added.key == dg.AssetKey("stage_04_more")
    assert dg.AssetKey("stage_03_hard") in added.asset_deps[added.key]


def test_a_code_version_follows_the_settings_an_asset_reads(monkeypatch):
    before = {keys: common.version(1, keys) for keys in ("graph", "tokens")}
    changed = common.config.load(None, {"graph.steps": "7"})
    monkeypatch.setattr(common, "defined_conf", lambda: changed)
    assert common.version(1, "graph") != before["graph"]
    assert common.version(1, "tokens") == before["tokens"]


def test_jobs_schedule_and_sensor():
    repository = definitions.defs.get_repository_def()
    assert {"full_pipeline", "retrain"} <= set(repository.job_names)
    (schedule,) = repository.schedule_defs
    assert (schedule.job_name, schedule.execution_timezone) == ("full_pipeline", "UTC")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert {sensor.name for sensor in repository.sensor_defs} == {"source_changed", "supplied_changed"}
    assert all(sensor.default_status == dg.DefaultSensorStatus.STOPPED for sensor in repository.sensor_defs)
    retrained = repository.get_job("retrain").asset_layer.executable_asset_keys
    assert dg.AssetKey("descriptions") not in retrained
    assert dg.AssetKey("evaluation_report") in retrained


def test_files_of_users_are_above_what_reads_them():
    program = """
from naics_pipeline.definitions import defs
graph = defs.resolve_asset_graph()
for key in sorted(graph.observable_asset_keys):
    print(key.to_user_string(), *(child.to_user_string() for child in graph.get(key).child_keys))
"""
    named = ("TAXONOMY__CORRECTIONS", "EVALUATION__LABELLED", "CLASSIFICATION__FILE")
    environment = os.environ | {f"NAICS__{name}": "texts.csv" for name in named}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[:-1] == [
        "corrections index_entries",
        "file_to_classify classified",
        "labelled_texts text_embeddings",
    ]


def test_one_module_is_named_everywhere():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    workspace = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())
    module = definitions.__name__
    assert project["tool"]["dagster"] == {"module_name": module}
    assert project["tool"]["dg"]["project"]["defs_module"] == module
    assert project["tool"]["dg"]["project"]["root_module"] == module.split(".")[0]
    assert workspace == {"load_from": [{"python_module": module}]}
    assert f'"${{DAGSTER_MODULE_NAME:-{module}}}"' in (REPOSITORY / "conf" / "env.sh").read_text()


def test_loading_the_definitions_imports_nothing_heavy():
    heavy = ("torch", "pytorch_lightning", "transformers", "mlflow", "sklearn", "matplotlib")
    program = f"import naics_pipeline.definitions, sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/")
    assert result.stdout.strip() == "[]"


def test_the_instance_sends_no_telemetry_and_frees_the_accelerator(tmp_path):
    (tmp_path / "dagster.yaml").write_text((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.managed_python_loggers == ["naics_pipeline"]


def test_source_and_report_are_expected_every_month_and_the_daemon_looks():
    specs = {spec.key.path[-1]: spec for spec in definitions.defs.resolve_all_asset_specs()}
    aged = {name for name, spec in specs.items() if spec.freshness_policy is not None}
    assert aged == {"index_entries", "descriptions", "evaluation_report"}
    settings = yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    assert settings["freshness"] == {"enabled": True}
