"""The index in MLflow's registry: what is registered, when the champion changes, and that MLflow serves it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import dagster as dg
import mlflow
import numpy as np
import polars as pl
import pytest
import requests
from mlflow import MlflowClient

from naics_pipeline.assets.search import naics_model
from naics_pipeline.definitions import default_resources
from naics_pipeline.evaluation.runs.scores import scores_frame
from naics_pipeline.registry import CHAMPION, CODE, DECISION
from naics_pipeline.search.champion import DECIDES, decide
from naics_pipeline.search.index import Index, Ingredients, write_index
from naics_pipeline_tests import runs
from naics_pipeline_tests.documents.pages import command_lines
from naics_pipeline_tests.search.conftest import ENTRIES, ingredients_of

NAME = "tested"
HELD_OUT = [(code, f"{text} nearby") for code, texts in ENTRIES.items() for text in texts]
ASKED = ["growing soybeans", "pizza delivery", ""]


def registered(data_dir: Path, held_out: list[tuple[str, str]] = HELD_OUT) -> dg.ExecuteInProcessResult:
    """Materializes naics_model alone, from the index in a data directory."""
    rows = [*((code, text, "train") for code, texts in ENTRIES.items() for text in texts)]
    rows += [(code, text, "held_out") for code, text in held_out]
    frame = pl.DataFrame(rows, schema=["code", "entry", "split"], orient="row")
    frame.write_parquet(data_dir / "index_entries.parquet")
    settings = {"data_dir": str(data_dir), "registry.model_name": NAME}
    return dg.materialize(
        [naics_model, *(dg.AssetSpec(name) for name in ("index_entries", "naics_index"))],
        selection=[naics_model],
        resources=default_resources(),
        run_config={"resources": {"conf": {"config": {"profile": "sample", "overrides": settings}}}},
        raise_on_error=False,
    )


@pytest.fixture(scope="module")
def ingredients(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingredients:
    return ingredients_of(tiny_base, tmp_path_factory.mktemp("ingredients"))


def misled(ingredients: Ingredients) -> Ingredients:
    """Those of an index that puts every text under a code that is not its own."""
    codes = sorted(ENTRIES)
    turned = dict(zip(codes, np.roll(codes, 1).tolist(), strict=True))

    def wrong(texts):
        return replace(texts, codes=np.array([turned.get(code, code) for code in texts.codes.tolist()]))

    return replace(ingredients, places=wrong(ingredients.places), queries=wrong(ingredients.queries))


@pytest.fixture(scope="module")
def reign(index_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose index is version 1, the champion."""
    directory = tmp_path_factory.mktemp("data")
    shutil.copytree(index_path, directory / "naics_index")
    result = registered(directory)
    assert result.success, runs.failure(result)
    said = runs.metadata(result, "naics_model")
    assert said["champion"] == f"champion moves: no version of {NAME} reigns"
    return directory


@pytest.fixture
def data_dir(reign: Path, tmp_path: Path) -> Path:
    """A copy of the reign, to go on from; artifacts stay where they were."""
    return shutil.copytree(reign, tmp_path / "data")


def client_of(data_dir: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{data_dir}/mlflow/mlflow.db")


def champion(data_dir: Path) -> str:
    return str(client_of(data_dir).get_model_version_by_alias(NAME, CHAMPION).version)


def said_of(data_dir: Path, version: str) -> str:
    said: str = client_of(data_dir).get_model_version(NAME, version).tags[DECISION]
    return said


def test_an_index_is_a_logged_model_with_its_metrics_and_data(reign: Path, index: Index) -> None:
    client = client_of(reign)
    version = client.get_model_version(NAME, "1")
    assert (version.tags["index_version"], version.tags["vintage"]) == (index.manifest["index_version"], "2022")
    model = client.get_logged_model(version.tags["model_id"])
    assert (str(model.status), model.source_run_id) == ("READY", version.run_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": "1"}]
    linked = {metric.key: metric for metric in model.metrics}
    assert {"query_top1", DECIDES, "index/calibration_error"} <= linked.keys()
    run = client.get_run(version.run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    (read,) = (given.dataset for given in run.inputs.dataset_inputs)
    of = linked[DECIDES]
    assert (of.dataset_name, of.dataset_digest) == (read.name, read.digest)
    assert read.name == "index_entries"
    assert run.data.metrics[DECIDES] == pytest.approx(of.value)


def test_its_files_are_code_and_plain_data(reign: Path) -> None:
    (place,) = (reign / "mlflow" / "artifacts" / "models").iterdir()
    kinds = {file.suffix for file in place.rglob("*") if file.is_file()}
    assert kinds == {"", ".json", ".parquet", ".py", ".safetensors", ".txt", ".yaml"}
    assert (place / "artifacts" / CODE.name).read_text() == CODE.read_text()


def test_what_is_loaded_from_the_registry_answers_as_the_index(
    reign: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{reign}/mlflow/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@{CHAMPION}")
    asked = pd.DataFrame({"text": ASKED})
    assert model.predict(asked) == [asdict(answer) for answer in index.search(ASKED)]
    few = model.predict(asked, params={"k": 1, "threshold": 1.0})
    assert few == [asdict(answer) for answer in index.search(ASKED, k=1, threshold=1.0)]
    assert model.metadata.signature.inputs.input_names() == ["text"]
    assert set(model.metadata.signature.outputs.input_names()) == few[0].keys()
    example = model.metadata.load_input_example(model.metadata.artifact_path)
    assert len(model.predict(example)) == len(example)


def test_the_same_index_is_not_registered_again(data_dir: Path) -> None:
    again = registered(data_dir)
    said = runs.metadata(again, "naics_model")
    assert said["model"] == f"models:/{NAME}/1"
    assert said["champion"] == "champion stays: version 1 is the champion already"
    assert len(client_of(data_dir).search_model_versions(f"name = '{NAME}'")) == 1


def test_the_champion_moves_to_an_index_that_is_no_worse(data_dir: Path, ingredients: Ingredients) -> None:
    write_index(data_dir / "naics_index", replace(ingredients, seed=1, vintage=2017))
    said = runs.metadata(registered(data_dir), "naics_model")
    assert (said["model"], champion(data_dir)) == (f"models:/{NAME}/2", "2")
    assert said["champion"].startswith("champion moves: no worse than version 1: query_mrr +0.0000, 95 % interval")
    assert (said["against_champion/difference"], said["against_champion/n"]) == (0, len(HELD_OUT))
    assert said_of(data_dir, "2") == said["champion"]


def test_the_champion_stays_where_the_new_index_is_worse(data_dir: Path, ingredients: Ingredients) -> None:
    write_index(data_dir / "naics_index", misled(ingredients))
    said = runs.metadata(registered(data_dir), "naics_model")
    assert (said["model"], champion(data_dir)) == (f"models:/{NAME}/2", "1")
    assert said["champion"].startswith("champion stays: worse than version 1: query_mrr -0.")
    assert said["against_champion/high"] < 0
    assert said_of(data_dir, "2") == said["champion"]


def test_other_held_out_entries_are_not_compared(data_dir: Path, ingredients: Ingredients) -> None:
    write_index(data_dir / "naics_index", misled(ingredients))
    said = runs.metadata(registered(data_dir, HELD_OUT[1:]), "naics_model")
    assert champion(data_dir) == "1"
    assert "version 1 was measured on other held-out entries (10, of which 9 are among the 9" in said["champion"]
    assert "registry.model_name" in said["champion"]


def test_a_champion_of_unknown_scores_keeps_its_place(data_dir: Path, ingredients: Ingredients) -> None:
    client = client_of(data_dir)
    by_hand = client.create_model_version(NAME, str(data_dir))
    client.set_registered_model_alias(NAME, CHAMPION, by_hand.version)
    write_index(data_dir / "naics_index", misled(ingredients))
    said = runs.metadata(registered(data_dir), "naics_model")
    assert said["champion"].startswith("champion stays: version 2 was not registered here")
    assert champion(data_dir) == "2"


def test_what_mlflow_does_not_take_is_said_and_leaves_no_version(
    data_dir: Path, ingredients: Ingredients, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", no_space)
    write_index(data_dir / "naics_index", misled(ingredients))
    result = registered(data_dir)
    assert not result.success
    assert "MLflow did not take the model ([Errno 28] No space left on device)" in runs.failure(result)
    client = client_of(data_dir)
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
    (experiment,) = [found for found in client.search_experiments() if found.name == "naics-pipeline"]
    states = {str(model.status) for model in client.search_logged_models([experiment.experiment_id])}
    assert states == {"READY", "FAILED"}


def scores(*values: float) -> pl.DataFrame:
    return scores_frame([f"entry {n}" for n in range(len(values))], {DECIDES: np.array(values)})


def test_the_newer_index_takes_over_unless_it_is_shown_to_be_worse() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(200)
    for shift, moves in ((0.1, True), (0.0, True), (-0.1, False)):
        found = decide(scores(*before), scores(*(before + shift)), name="version 7", seed=0)
        assert (found.moves, found.comparison.n) == (moves, 200)
    unclear = decide(scores(*before), scores(*rng.permutation(before)), name="version 7", seed=0)
    assert unclear.moves
    assert unclear.comparison.low < 0 < unclear.comparison.high
    assert decide(scores(), scores(), name="version 7", seed=0).moves
    assert not decide(scores(1.0), scores(), name="version 7", seed=0).moves


@pytest.mark.slow
def test_mlflow_serves_the_champion_without_network(reign: Path, index: Index) -> None:
    """The very command of the manual, with another port and name."""
    (line,) = [line.words for line in command_lines() if line.words[:3] == ("mlflow", "models", "serve")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [{"5001": port, "models:/naics@champion": f"models:/{NAME}@{CHAMPION}"}.get(word, word) for word in line]
    assert port in command
    nowhere = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    nowhere |= {f"{kind}_proxy": "http://127.0.0.1:1" for kind in ("http", "https")} | {"no_proxy": "127.0.0.1"}
    nowhere["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | nowhere | {"MLFLOW_TRACKING_URI": f"sqlite:///{reign}/mlflow/mlflow.db"}
    with (reign / "served.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        limit = time.monotonic() + 240
        while not is_up(address):
            assert server.poll() is None, (reign / "served.log").read_text()
            assert time.monotonic() < limit, (reign / "served.log").read_text()
            time.sleep(0.5)
        expected = [asdict(answer) for answer in index.search(ASKED, k=2)]
        split = {"columns": ["text"], "data": [[text] for text in ASKED]}
        for given in ({"dataframe_split": split}, {"inputs": {"text": ASKED}}):
            assert answered(address, {**given, "params": {"k": 2}}) == expected
        with ThreadPoolExecutor(8) as many:
            asked = {"dataframe_split": split, "params": {"k": 2}}
            assert all(found == expected for found in many.map(lambda _: answered(address, asked), range(24)))
        refused = requests.post(f"{address}/invocations", json={"inputs": {"words": ["corn"]}}, timeout=60)
        assert refused.status_code == 400
        assert "text" in refused.json()["message"]
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def is_up(address: str) -> bool:
    try:
        return requests.get(f"{address}/ping", timeout=2).ok
    except requests.ConnectionError:
        return False


def answered(address: str, question: dict) -> list[dict]:
    response = requests.post(f"{address}/invocations", json=question, timeout=60)
    assert response.ok, response.text
    found: list[dict] = response.json()["predictions"]
    return found
