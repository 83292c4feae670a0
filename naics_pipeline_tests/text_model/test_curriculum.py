"""Stage files: what is accepted, in which order, and what is said of the rest."""

from pathlib import Path

import pytest

from naics_pipeline.errors import SettingsError
from naics_pipeline.text_model.curriculum import load_curriculum

STAGE = """
positive_levels: [6]
difficulty_buckets: [1, 2]
bucket_percentages: {1: 0.875, 2: 0.125}
epochs: 2
learning_rate: 0.001
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def test_the_built_in_stages_follow_one_another() -> None:
    stages = load_curriculum(Path(__file__).parents[2] / "conf" / "curriculum")
    assert [(s.name, s.after) for s in stages] == [
        ("01_easy", None),
        ("02_medium", "01_easy"),
        ("03_hard", "02_medium"),
    ]
    assert stages[0].quotas == {1: 14, 2: 2}


def test_a_dropped_in_file_is_a_stage_and_after_reorders(tmp_path: Path) -> None:
    write(tmp_path, a=STAGE + "after: c\n", b=STAGE + "after: null\n", c=STAGE)
    assert [s.name for s in load_curriculum(tmp_path)] == ["b", "c", "a"]


def test_quotas_give_remainders_to_the_hardest(tmp_path: Path) -> None:
    shares = STAGE.replace("{1: 0.875, 2: 0.125}", "{1: 0.5, 2: 0.5}") + "k_negatives: 5\n"
    assert load_curriculum(write(tmp_path, a=shares))[0].quotas == {1: 2, 2: 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0.125", "0.025"), "bucket_percentages sum to 0.9"),
        (("2: 0.125", "9: 0.125"), "bucket_percentages.9"),
        (("2: 0.125", "3: 0.125"), "bucket 3, which is not in difficulty_buckets"),
        (("[1, 2]", "[1, 12]"), "difficulty_buckets.1"),
        (("epochs: 2", "epoch: 2"), "unknown key 'epoch'; did you mean 'epochs'?"),
        (("epochs: 2", "epochs: two"), "epochs: "),
        (("learning_rate: 0.001", "learning_rate: -1"), "learning_rate: "),
        (("[6]", "[7]"), "positive_levels.0"),
        (("epochs: 2", "epochs: 2\nafter: nowhere"), "after: 'nowhere' is not an earlier stage"),
        (("epochs: 2", "epochs: [2"), "not a YAML file"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    write(tmp_path, bad=STAGE.replace(*change))
    with pytest.raises(SettingsError) as raised:
        load_curriculum(tmp_path)
    assert str(tmp_path / "bad.yaml") in str(raised.value)
    assert message in str(raised.value)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no stage file"):
        load_curriculum(tmp_path)
