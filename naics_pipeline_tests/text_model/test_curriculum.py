"""Stage files: what is accepted, in which order, and what is said of the rest."""

from pathlib import Path

import pytest

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Objective
from naics_pipeline.text_model.curriculum.stage import WEIGHTS, load_curriculum

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
        ("00_short_text", None),
        ("01_easy", "00_short_text"),
        ("02_medium", "01_easy"),
        ("03_hard", "02_medium"),
    ]
    assert not stages[0].draws_pairs
    assert stages[1].quotas == {1: 14, 2: 2}


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
        (("positive_levels: [6]\n", ""), "positive_levels is missing, and the stage compares codes"),
        (("difficulty_buckets: [1, 2]\n", ""), "difficulty_buckets is missing, and the stage compares codes"),
        (("positive_levels: [6]", "hierarchy: 0"), "positive_levels is missing"),
        (("positive_levels: [6]", "contrastive: 0"), "positive_levels is missing"),
        (("epochs: 2", "epochs: 2\nquery: -1"), "query: "),
        (("epochs: 2", "epochs: 2\nadapter_rate: -1"), "adapter_rate: "),
        (("epochs: 2", "epochs: 2\nquerry: 1"), "unknown key 'querry'; did you mean 'query'?"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    write(tmp_path, bad=STAGE.replace(*change))
    with pytest.raises(SettingsError) as raised:
        load_curriculum(tmp_path)
    assert str(tmp_path / "bad.yaml") in str(raised.value)
    assert message in str(raised.value)


def test_a_stage_that_compares_no_codes_needs_no_pairs(tmp_path: Path) -> None:
    alone = "contrastive: 0\nhierarchy: 0\nepochs: 2\nlearning_rate: 0.001\n"
    (stage,) = load_curriculum(write(tmp_path, a=alone))
    assert not stage.draws_pairs
    assert load_curriculum(write(tmp_path, a=STAGE))[0].draws_pairs


@pytest.mark.parametrize("term", WEIGHTS)
def test_a_file_may_set_the_weight_of_any_term(tmp_path: Path, term: str) -> None:
    profile = Objective(contrastive=0.1, query=0.2, hierarchy=0.3, radius=0.4, balance=0.5, margin=0.6)
    for weight in (0.0, 7.0):
        (stage,) = load_curriculum(write(tmp_path, a=f"{STAGE}{term}: {weight}\n"))
        assert stage.weigh(profile) == profile.model_copy(update={term: weight})
    (silent,) = load_curriculum(write(tmp_path, a=STAGE))
    assert silent.weigh(profile) == profile


def test_every_term_of_the_objective_can_be_weighed() -> None:
    terms = {name for name, field in Objective.model_fields.items() if field.annotation is float}
    constants = {"temperature", "margin", "query_temperature", "query_smoothing", "query_margin"}
    assert set(WEIGHTS) == terms - constants


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no stage file"):
        load_curriculum(tmp_path)
