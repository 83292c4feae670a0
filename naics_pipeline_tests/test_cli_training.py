"""What is asked before training begins: what a curriculum draws, and how large a batch may be."""

import re
import shutil

import pytest
import yaml

from naics_pipeline import config
from naics_pipeline.errors import SettingsError
from naics_pipeline.text_model.training.tuning import KEY, Trial, largest, write_batch
from naics_pipeline_tests.test_cli import naics  # noqa: F401


def test_inspect_curriculum_shows_what_a_stage_draws(naics, tmp_path):  # noqa: F811
    code, out, err = naics("inspect-curriculum", "03_hard", "--profile", "sample", "--set", f"data_dir={tmp_path}")
    assert (code, err) == (0, "")
    drawn = {row[0]: row[1:] for row in re.findall(r"│ (\d) +│ (\d+) +│ (\d+) +│ (\d+) +│ (\d\.\d+) │", out)}
    asked, given = (sum(int(row[column]) for row in drawn.values()) for column in (0, 1))
    assert asked == given > 0
    assert sum(float(row[3]) for row in drawn.values()) == pytest.approx(1, abs=0.01)
    assert re.search(r"sibling +│ 2", out)
    assert re.search(r"^\d+ \w.* with \d+ \w.*, not with$", out, re.MULTILINE)


def test_inspect_curriculum_shows_each_phase_and_what_has_to_wait(naics, tmp_path):  # noqa: F811
    dynamic = ("--set", "curriculum=conf/curriculum_dynamic", "--set", f"data_dir={tmp_path}")
    code, out, _ = naics("inspect-curriculum", "--profile", "sample", *dynamic)
    assert code == 0
    assert "short texts alone" in out
    assert "mined (" in out
    assert len(re.findall(": negatives by hardness", out)) == 3


def test_inspect_curriculum_names_the_stages_there_are(naics, tmp_path):  # noqa: F811
    code, _, err = naics("inspect-curriculum", "04_none", "--set", f"data_dir={tmp_path}")
    assert code == 1
    assert "stages are 00_short_text, 01_easy" in err


@pytest.mark.slow
def test_tune_batch_tries_and_writes(naics, tiny_base, tmp_path, monkeypatch):  # noqa: F811
    shutil.copytree(config.project_root() / "conf", tmp_path / "conf")
    monkeypatch.setenv("NAICS_PROJECT_DIR", str(tmp_path))
    own = (f"data_dir={tmp_path}", f"model.base={tiny_base}", "accelerator=cpu")
    sets = [part for one in own for part in ("--set", one)]
    code, out, err = naics("tune-batch", "--profile", "sample", "--limit", "64", "--write", *sets)
    assert (code, err) == (0, "")
    assert re.search(r"│ 32 +│ \d+\.\d+ GiB +│ \d+ ", out)
    assert f"{KEY}: 64" in out
    profile = yaml.safe_load((tmp_path / "conf/profiles/sample.yaml").read_text())
    assert profile["training"][KEY] == 64


def test_the_largest_batch_is_the_last_that_fits():
    trials = [Trial(32, 10, 5.0), Trial(64, 20, 6.0), Trial(128, problem="out of memory")]
    assert largest(trials) == 64
    with pytest.raises(SettingsError, match="not even 128 texts: out of memory"):
        largest(trials[2:])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("seed: 1 # mine\n", "seed: 1 # mine\ntraining:\n  queries_per_batch: 64\n"),
        (
            "training: # of it\n  epochs: 2\nseed: 1\n",
            "training: # of it\n  queries_per_batch: 64\n  epochs: 2\nseed: 1\n",
        ),
        ("training:\n  queries_per_batch: 8 # few\n", "training:\n  queries_per_batch: 64 # few\n"),
    ],
)
def test_writing_a_batch_leaves_all_other_lines(tmp_path, before, after):
    path = tmp_path / "mine.yaml"
    path.write_text(before)
    write_batch(path, 64)
    assert path.read_text() == after
