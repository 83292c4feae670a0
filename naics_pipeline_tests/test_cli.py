"""The `naics` command, as a user types it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from naics_pipeline import cli
from naics_pipeline.geometry import lorentz
from naics_pipeline.text_model.embeddings import GATE, PASSED, Embeddings, read_embeddings, write_embeddings


@pytest.fixture
def naics(monkeypatch, capsys):
    """Runs the command; gives exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["naics", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def embeddings_file(sample_tree, tmp_path_factory):
    """Every code at its parent's place and a small step on."""
    import torch

    generator = np.random.default_rng(0)
    place = np.zeros((len(sample_tree), 8))
    for code in np.argsort(sample_tree.level, kind="stable"):
        parent = sample_tree.parent[code]
        place[code] = (place[parent] if parent >= 0 else 0) + generator.normal(size=8) / sample_tree.level[code]
    points = lorentz.exp0(torch.from_numpy(place)).numpy()
    path = tmp_path_factory.mktemp("embeddings") / "mine.parquet"
    write_embeddings(Embeddings(sample_tree.codes, points), path)
    return path


def test_config_shows_values_and_where_they_come_from(naics, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NAICS__GRAPH__STEPS", "7")
    code, out, _ = naics("config", "--profile", "sample", "--set", "seed=3")
    assert code == 0
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["seed", "3", "--set", "seed"] in rows
    assert ["graph.steps", "7", "environment", "NAICS__GRAPH__STEPS"] in rows
    assert ["graph.steps_per_epoch", "10", "default"] in rows


def test_config_prints_one_value_for_scripts(naics):
    assert naics("config", "seed", "--set", "seed=3")[:2] == (0, "3\n")
    assert naics("config", "source", "--profile", "sample")[:2] == (0, "sample\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["config", "sead"], "'seed'"),
        (["config", "--set", "seed"], "key=value"),
        (["config", "--set", "sead=3"], "'seed'"),
        (["config", "--profile", "nowhere"], "Known profiles"),
        (["evaluate", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["nearest", "1111", "--embeddings", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["explore", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["export", "out.parquet", "--embeddings", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["nearest", "1111", "--set", "data_dir=/nonexistent"], "text_embeddings"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(naics, arguments, says):
    code, out, err = naics(*arguments)
    assert code == 1
    assert says in err
    assert "Traceback" not in out + err


def test_evaluate_prints_every_metric_as_json(naics, embeddings_file):
    code, out, _ = naics("evaluate", embeddings_file, "--json")
    assert code == 0
    metrics = json.loads(out)
    assert 0 < metrics["cophenetic_correlation"] < 1
    assert {"ndcg@10", "parent_retrieval@1", "manifold_violation_max", "radius_mean_level_6"} <= set(metrics)
    assert metrics["collapse"] is False


@pytest.fixture
def space(embeddings_file, tmp_path):
    """A pair of files as the pipeline writes them: each six-digit code is found by the text that lies on it."""
    codes = read_embeddings(embeddings_file)
    leaf = codes.level == 6
    texts = Embeddings(codes.codes[leaf], codes.points[leaf])
    for name, points in (("my_embeddings", codes), ("my_queries", texts)):
        write_embeddings(replace(points, metadata={"run_id": "one"}), tmp_path / f"{name}.parquet")
    return tmp_path


def test_evaluate_measures_the_queries_of_the_same_run_beside_the_file(naics, space):
    code, out, _ = naics("evaluate", space / "my_embeddings.parquet", "--json")
    assert code == 0
    assert json.loads(out)["query_top1"] == 1
    other = replace(read_embeddings(space / "my_queries.parquet"), metadata={"run_id": "two"})
    write_embeddings(other, space / "my_queries.parquet")
    code, out, err = naics("evaluate", space / "my_embeddings.parquet", "--json")
    assert code == 0
    assert "query_top1" not in json.loads(out)
    assert "--queries" in err
    asked = ("--queries", space / "my_queries.parquet", "--json")
    assert json.loads(naics("evaluate", space / "my_embeddings.parquet", *asked)[1])["query_top1"] == 1


def test_evaluate_reads_places_of_the_same_run_and_places_that_are_named(naics, space):
    queries = read_embeddings(space / "my_queries.parquet")
    for name, run in (("my_places", "one"), ("named", "two")):
        write_embeddings(replace(queries, metadata={"run_id": run}), space / f"{name}.parquet")
    metrics = json.loads(naics("evaluate", space / "my_embeddings.parquet", "--json")[1])
    assert metrics["nearest_entry/query_top1"] == metrics["mixed/query_top1"] == 1
    (space / "my_places.parquet").unlink()
    assert "mixed/query_top1" not in json.loads(naics("evaluate", space / "my_embeddings.parquet", "--json")[1])
    named = ("--places", space / "named.parquet", "--json")
    assert "mixed/query_top1" in json.loads(naics("evaluate", space / "my_embeddings.parquet", *named)[1])


def test_evaluate_refuses_queries_of_another_space(naics, space):
    queries = read_embeddings(space / "my_queries.parquet")
    write_embeddings(replace(queries, curvature=2.0), space / "other.parquet")
    code, _, err = naics("evaluate", space / "my_embeddings.parquet", "--queries", space / "other.parquet")
    assert code == 1
    assert "another space" in err
    assert "curvature 2" in err


def test_evaluate_shows_values_beside_their_ceiling(naics, embeddings_file):
    code, out, _ = naics("evaluate", embeddings_file, "--set", "evaluation.cutoffs=[3]")
    assert code == 0
    assert "ceiling" in out
    assert "ndcg@3" in out


def test_nearest_lists_other_codes_by_distance(naics, embeddings_file, sample_descriptions, tmp_path):
    sample_descriptions.write_parquet(tmp_path / "descriptions.parquet")
    code, out, _ = naics("nearest", "311", "-k", "3", "--embeddings", embeddings_file, "--set", f"data_dir={tmp_path}")
    assert code == 0
    assert "Food Manufacturing" in out
    distances = [float(line.split("│")[3]) for line in out.splitlines() if line.startswith("│")]
    assert len(distances) == 3
    assert distances == sorted(distances)
    # Whole, however narrow the table is.
    assert out.splitlines()[-1] == str(embeddings_file)


def test_nearest_says_that_points_failed_the_gate(naics, embeddings_file, tmp_path):
    points = read_embeddings(embeddings_file)
    for name, verdict in (("good", PASSED), ("bad", "ndcg@10 0.8 to 0.7")):
        write_embeddings(replace(points, metadata={GATE: verdict}), tmp_path / f"{name}.parquet")
    assert "gate" not in naics("nearest", "311", "--embeddings", tmp_path / "good.parquet")[2]
    code, out, err = naics("nearest", "311", "--embeddings", tmp_path / "bad.parquet")
    assert code == 0
    assert "311" in out
    assert "failed the gate: ndcg@10 0.8 to 0.7" in err


@pytest.mark.parametrize(
    "command",
    [
        "config",
        "evaluate",
        "nearest",
        "search",
        "classify",
        "benchmark",
        "compare",
        "verify",
        "seeds",
        "inspect-curriculum",
        "tune-batch",
    ],
)
def test_help_gives_examples(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples: naics" in result.output


def test_explore_writes_a_page_with_a_users_own_columns(naics, embeddings_file, tmp_path):
    table, page = tmp_path / "wages.csv", tmp_path / "page.html"
    table.write_text("code,wage\n11,1.5\n")
    own = f"data_dir={tmp_path}"
    again = tmp_path / embeddings_file.name
    again.write_bytes(embeddings_file.read_bytes())
    code, out, err = naics("explore", embeddings_file, again, "--out", page, "--columns", table, "--set", own)
    assert (code, err) == (0, "")
    assert str(page) in out
    assert f'"label":"{again}"' in page.read_text()
    assert '"label":"wage","kind":"number"' in page.read_text()
    table.write_text("name,wage\n11,1.5\n")
    assert "no column 'code'" in naics("explore", embeddings_file, "--out", page, "--columns", table, "--set", own)[2]
    missing = naics("explore", embeddings_file, "--columns", tmp_path / "no.csv", "--set", own)[2]
    assert "not a readable CSV or Parquet file" in missing


def test_export_says_how_to_open_what_it_wrote(naics, embeddings_file, tmp_path):
    for viewer, program, name in (("atlas", "embedding-atlas", "a.parquet"), ("projector", "tensorboard", "run")):
        arguments = ("--to", viewer, "--embeddings", embeddings_file, "--set", f"data_dir={tmp_path}")
        code, out, _ = naics("export", tmp_path / name, *arguments)
        assert code == 0
        assert out.startswith(program)
        assert (tmp_path / name).exists()
