"""Training, refinement and evaluation as one run makes them, with a model small enough for a test."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient

from naics_pipeline import checks, config
from naics_pipeline.assets.report import metrics_together
from naics_pipeline.assets.text_model import STAGES, refuse_other_curriculum
from naics_pipeline.errors import ModelError, SettingsError
from naics_pipeline.evaluation.retrieval import evaluate_texts
from naics_pipeline.evaluation.runs.scores import runs_in
from naics_pipeline.evaluation.summary import variants
from naics_pipeline.storage import Store
from naics_pipeline.text_model.checkpoints import read_stage
from naics_pipeline.text_model.embeddings import read_embeddings, write_embeddings
from naics_pipeline_tests import runs
from naics_pipeline_tests.taxonomy.workbooks import small_source

EMBEDDINGS = ("text_embeddings", "refined_embeddings")
QUICK = {
    "training.epochs_scale": 0.1,
    "training.queries_per_epoch": 96,
    "training.queries_per_batch": 32,
    "graph.steps": 60,
    "graph.left_out_fraction": 0,
    "evaluation.baselines": False,
}
TRACKED = {
    *(f"stage_{stage.name}" for stage in STAGES),
    "refined_embeddings",
    "text_evaluation",
    "refined_evaluation",
    "evaluation_report",
    "naics_model",
}


@pytest.fixture(scope="module")
def trained_run(data_run, data_dir: Path, tiny_base: Path):
    """The run that made everything else: an epoch a stage, a few steps of refinement, no baselines."""
    result = runs.materialize(
        'key:"token_cache" or key:"stage_00_short_text"+', data_dir, model__base=str(tiny_base), **QUICK
    )
    assert result.success, runs.failure(result)
    return result


@pytest.fixture(scope="module")
def recorded(trained_run, data_dir):
    """MLflow's runs by asset."""
    client = MlflowClient(tracking_uri=f"sqlite:///{data_dir}/mlflow/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    return {run.data.tags["asset"]: run for run in client.search_runs(experiments, "tags.role = 'asset'")}


def test_one_parent_holds_the_whole_run_and_its_results(recorded, trained_run, data_dir):
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in recorded.values()}
    whole = MlflowClient(tracking_uri=f"sqlite:///{data_dir}/mlflow/mlflow.db").get_run(parent)
    assert whole.info.status == "FINISHED"
    assert whole.data.tags["dagster.run_id"] == trained_run.run_id
    assert {"mixed/query_top1", "parent_retrieval_at_1", "gate_passed"} <= whole.data.metrics.keys()
    (run,) = runs_in(Store(str(data_dir)))
    assert parent in run.ids
    read = {given.dataset.name for given in recorded["stage_01_easy"].inputs.dataset_inputs}
    assert read == {"descriptions", "index_entries", "activity_phrases"}


def test_every_training_and_evaluation_is_one_finished_mlflow_run(recorded, trained_run):
    assert set(recorded) == TRACKED
    assert {run.info.status for run in recorded.values()} == {"FINISHED"}
    for asset, run in recorded.items():
        assert runs.metadata(trained_run, asset)["mlflow_run_id"] == run.info.run_id


def test_a_stage_is_recorded_with_its_own_keys(recorded):
    for stage in STAGES:
        run = recorded[f"stage_{stage.name}"]
        assert run.data.tags["stage"] == stage.name
        assert run.data.params["stage.k_negatives"] == str(stage.k_negatives)
        assert "cophenetic_correlation" in run.data.metrics


def test_a_stage_is_a_model_with_its_metrics_that_says_how_to_load_it(recorded, trained_run, data_dir):
    client = MlflowClient(tracking_uri=f"sqlite:///{data_dir}/mlflow/mlflow.db")
    for stage in STAGES:
        run = recorded[f"stage_{stage.name}"]
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        assert (model.name, str(model.status)) == (f"stage_{stage.name}", "READY")
        assert model.params["key"] == read_stage(data_dir / "stages" / stage.name)["key"]
        linked = {metric.key: metric.value for metric in model.metrics}
        assert linked["validation/mixed/query_top1"] == run.data.metrics["validation/mixed/query_top1"]
        assert {metric.dataset_name for metric in model.metrics} == {"index_entries"}
        module, function, rest = re.fullmatch(r"([\w.]+?)\.(TextEmbedder)(\.load\(.*\))", model.tags["load"]).groups()
        loaded = eval(f"{function}{rest}", {function: getattr(importlib.import_module(module), function), "Path": Path})
        assert loaded.stage == stage.name
    (refined,) = recorded["refined_embeddings"].outputs.model_outputs
    assert "gate_passed" in {metric.key for metric in client.get_logged_model(refined.model_id).metrics}


def test_a_stage_is_measured_as_the_embeddings_are(trained_run, data_dir):
    """From cached hidden states here, from the texts there: the last stage's numbers are those of its embeddings."""
    measured = [
        json.loads((data_dir / "stages" / stage.name / "metrics.json").read_text(encoding="utf-8")) for stage in STAGES
    ]
    text = json.loads((data_dir / "reports" / "text_metrics.json").read_text(encoding="utf-8"))["text"]
    # Cached states are float16: a rank may change by one code, what averages distances may not.
    smooth = ("cophenetic_correlation", "spearman_correlation", "distortion_mean", "radius_mean_level_6")
    assert [measured[-1][name] for name in smooth] == pytest.approx([text[name] for name in smooth], rel=1e-3)
    assert measured[0].keys() < text.keys()
    spans = json.loads((data_dir / "stages" / STAGES[-1].name / "intervals.json").read_text(encoding="utf-8"))
    for name in ("cophenetic_correlation", "validation/mixed/query_top1", "mixed/calibration_error"):
        low, high = spans[name]
        assert low <= measured[-1][name] <= high
    assert measured[0]["cophenetic_correlation"] != measured[-1]["cophenetic_correlation"]


def test_a_stage_has_the_version_of_its_settings_and_inputs(trained_run, data_dir):
    keys = {stage.name: read_stage(data_dir / "stages" / stage.name)["key"] for stage in STAGES}
    assert len(set(keys.values())) == len(STAGES)
    for name, key in keys.items():
        assert runs.data_version(trained_run, f"stage_{name}") == key


@pytest.mark.parametrize("asset", EMBEDDINGS)
def test_embeddings_say_which_run_they_come_from(asset, trained_run, data_dir):
    embeddings = read_embeddings(data_dir / f"{asset}.parquet")
    assert embeddings.metadata["run_id"] == trained_run.run_id
    assert runs.metadata(trained_run, asset)["dagster/row_count"] == len(embeddings.codes)


def test_the_metrics_files_are_json_with_nothing_left_out(trained_run, data_dir):
    text = json.loads((data_dir / "reports" / "text_metrics.json").read_text())
    refined = json.loads((data_dir / "reports" / "refined_metrics.json").read_text())
    assert refined["refined"].keys() < text["text"].keys()
    assert {"mixed/query_top1", "unrepeated/query_top1", "validation/nearest_entry/query_mrr"} <= text["text"].keys()
    assert text["ceiling"]["cophenetic_correlation"] == 1
    assert {rule["metric"] for rule in refined["gate"]} == {"cophenetic_correlation", "ndcg@10", "parent_retrieval@1"}
    shown = runs.metadata(trained_run, "text_evaluation")
    assert shown["query_top1"] == pytest.approx(text["text"]["query_top1"])


@pytest.mark.parametrize("space", ["text", "refined"])
def test_unseen_entries_lie_beside_the_embeddings_as_points(space, trained_run, data_dir):
    queries = read_embeddings(data_dir / f"{space}_queries.parquet")
    unseen = pl.read_parquet(data_dir / "index_entries.parquet").filter(pl.col("split") != "train")
    assert queries.codes.tolist() == unseen["code"].to_list()
    assert queries.columns["split"].to_list() == unseen["split"].to_list()
    metrics = json.loads((data_dir / "reports" / f"{space}_metrics.json").read_text())
    found = evaluate_texts(read_embeddings(data_dir / f"{space}_embeddings.parquet"), queries)
    assert found.metrics["query_top1"] == metrics[space]["query_top1"]


@pytest.mark.slow
def test_with_nothing_held_out_the_structure_is_measured_alone(tmp_path, tiny_base):
    own = {"source": str(small_source().write(tmp_path / "workbooks")), "taxonomy.held_out_fraction": 0}
    result = runs.materialize("*", tmp_path, model__base=str(tiny_base), **own, **QUICK)
    assert result.success, runs.failure(result)
    refined = json.loads((tmp_path / "reports" / "refined_metrics.json").read_text())
    assert refined["queries"] == 0
    assert refined["refined"]["query_top1"] is None
    assert refined["refined"]["cophenetic_correlation"] > 0.5


@pytest.mark.slow
def test_euclidean_points_run_through_to_a_report_that_says_they_were_not_refined(tmp_path, tiny_base):
    own = {"source": str(small_source().write(tmp_path / "workbooks")), "model.geometry": "euclidean"}
    result = runs.materialize("*", tmp_path, model__base=str(tiny_base), **own, **QUICK)
    assert result.success, runs.failure(result)
    assert runs.metadata(result, "refined_embeddings")["gate"] == "refinement skipped"
    refined = json.loads((tmp_path / "reports" / "refined_metrics.json").read_text())
    assert "refined" not in refined
    assert {"query_top1", "cophenetic_correlation"} <= refined["smoothed"].keys()
    page = (tmp_path / "reports" / "index.html").read_text()
    assert "refinement was skipped" in page
    assert "Smoothed (control)" in page
    assert "Refined by the graph" not in page


def test_the_report_needs_nothing_beside_itself(trained_run, data_dir):
    page = (data_dir / "reports" / "index.html").read_text()
    assert set(re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", page)) == {"explorer.html"}
    own = f"{trained_run.run_id}.explorer.html"
    kept = (data_dir / "reports" / f"{trained_run.run_id}.html").read_text()
    assert page == kept.replace(own, "explorer.html")
    assert (data_dir / "reports" / own).read_text() == (data_dir / "reports" / "explorer.html").read_text()
    pictures = [
        name for name, value in runs.metadata(trained_run, "evaluation_report").items() if "base64" in str(value)
    ]
    assert len(pictures) == page.count("<img") == 9


def test_the_disk_to_explore_lies_beside_the_report(trained_run, data_dir):
    page = (data_dir / "reports" / "explorer.html").read_text()
    assert "Refined by the graph" in page
    assert "Text model" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)


def test_the_scores_of_a_run_are_kept_and_their_means_are_its_metrics(trained_run, data_dir):
    (run,) = runs_in(Store(str(data_dir)))
    assert run.name == trained_run.run_id
    assert runs.metadata(trained_run, "text_evaluation")["mlflow_run_id"] in run.ids
    means = run.scores().group_by("space", "metric").agg(pl.col("value").mean())
    assert {("text", "mixed/query_top1"), ("smoothed", "query_mrr"), ("refined", "spearman_correlation")} <= set(
        means.select("space", "metric").iter_rows()
    )
    for space, metric, value in means.iter_rows():
        assert value == pytest.approx(run.metrics[space][metric], abs=1e-9), (space, metric)


def test_what_was_measured_says_its_own_settings_and_data(trained_run, data_dir):
    (run,) = runs_in(Store(str(data_dir)))
    assert run.settings["graph.steps"] == QUICK["graph.steps"]
    assert run.settings["training.epochs_scale"] == QUICK["training.epochs_scale"]
    assert run.settings["curriculum.01_easy.k_negatives"] == STAGES[1].k_negatives
    origin = run.records["refined"]["measured"]["refined"]["origin"]
    assert set(origin["data"]) == {"descriptions", "index_entries", "activity_phrases"}
    assert "torch" in origin["versions"]
    assert set(run.curves) == {*(stage.name for stage in STAGES), "graph"}


def test_results_of_other_points_are_refused(trained_run, data_dir, store, sample_tree):
    text, refined = (read_embeddings(store.path(f"{name}.parquet")) for name in EMBEDDINGS)
    spaces = variants(text, refined, sample_tree, 1)
    for name in ("text_metrics.json", "refined_metrics.json"):
        store.path("reports").mkdir(exist_ok=True)
        store.path(f"reports/{name}").write_bytes((data_dir / "reports" / name).read_bytes())
    assert metrics_together(store, spaces)
    other = replace(text, metadata=text.metadata | {"space": "another"})
    with pytest.raises(ModelError, match="made from version"):
        variants(other, refined, sample_tree, 1)
    with pytest.raises(ModelError, match=r"text_metrics.json is of version .* now version another"):
        metrics_together(store, {**spaces, "text": other})


@pytest.fixture
def store(trained_run, data_dir, tmp_path) -> Store:
    """A copy of the embeddings, to damage."""
    for name in (*EMBEDDINGS, "descriptions"):
        (tmp_path / f"{name}.parquet").write_bytes((data_dir / f"{name}.parquet").read_bytes())
    return Store(str(tmp_path))


def results(checked) -> dict[str, bool]:
    return {result.check_name: result.passed for result in checked}


def test_sound_embeddings_pass(store):
    assert results(checks.text_embeddings_checks(store)) == {"sound_points": True}
    assert results(checks.refined_embeddings_checks(store)) == {"sound_points": True, "gate": True}


def test_a_point_that_is_no_number_or_off_the_hyperboloid_is_found(store):
    path = store.path("text_embeddings.parquet")
    good = read_embeddings(path)
    for damage in (np.nan, 1.0):
        points = good.points.copy()
        points[3, 0] += damage
        write_embeddings(replace(good, points=points), path)
        assert results(checks.text_embeddings_checks(store)) == {"sound_points": False}


def test_refined_points_that_lose_what_the_text_model_had_do_not_pass_the_gate(store):
    text = read_embeddings(store.path("text_embeddings.parquet"))
    shuffled = text.points[np.random.default_rng(0).permutation(len(text.points))]
    refined = read_embeddings(store.path("refined_embeddings.parquet"))
    write_embeddings(refined, store.path("text_embeddings.parquet"))
    write_embeddings(replace(text, points=shuffled), store.path("refined_embeddings.parquet"))
    assert results(checks.refined_embeddings_checks(store)) == {"sound_points": True, "gate": False}


def test_refined_points_say_whether_they_passed_and_so_do_mlflow_and_the_ui(recorded, trained_run, data_dir):
    assert read_embeddings(data_dir / "refined_embeddings.parquet").metadata["gate"] == "passed"
    assert runs.metadata(trained_run, "refined_embeddings")["gate"] == "passed"
    for asset in ("refined_embeddings", "refined_evaluation"):
        assert recorded[asset].data.metrics["gate_passed"] == 1


def test_another_curriculum_in_run_config_is_refused(tmp_path):
    (tmp_path / "01_other.yaml").touch()
    with pytest.raises(SettingsError, match="NAICS__CURRICULUM"):
        refuse_other_curriculum(config.load("sample", {"curriculum": str(tmp_path)}, {}))


def test_the_index_of_the_last_stage_finds_codes(trained_run, data_dir):
    from naics_pipeline.search.index import Index

    index = Index.load(data_dir / "naics_index")
    assert runs.metadata(trained_run, "naics_index")["index_version"] == index.manifest["index_version"]
    assert runs.metadata(trained_run, "naics_model")["model"] == "models:/naics-sample/1"
    (answer,) = index.search("family restaurant")
    assert len(answer.candidates) == 5
    assert index.manifest["fitted_on"] > 0
