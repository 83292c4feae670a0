"""Stage files: what is accepted, in which order, and what is said of the rest."""

from pathlib import Path

import pytest

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Objective, quotas
from naics_pipeline.text_model.curriculum.stage import (
    WEIGHTS,
    Anneal,
    Buckets,
    Mined,
    NearFar,
    Negatives,
    RouterGuided,
    TreeDistance,
    final_stage,
    lineage,
    load_curriculum,
)
from naics_pipeline.text_model.curriculum.state import CurriculumState

STAGE = """
positive_levels: [6]
negatives:
  kind: buckets
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
    assert stages[1].negatives == Buckets(difficulty_buckets=(1, 2), bucket_percentages={1: 0.875, 2: 0.125})


def test_the_dynamic_curriculum_is_one_run_of_three_phases() -> None:
    first, dynamic = load_curriculum(Path(__file__).parents[2] / "conf" / "curriculum_dynamic")
    assert not first.draws_pairs
    assert [(phase.name, phase.until) for phase in dynamic.all_phases] == [
        ("structure", 0.3),
        ("refinement", 0.7),
        ("false_negatives", 1.0),
    ]
    assert dynamic.all_phases[0].negatives.mask_siblings
    assert dynamic.all_phases[2].false_negatives is not None
    begun = [CurriculumState(epoch, 10).phase(dynamic).name for epoch in range(10)]
    assert begun == ["structure"] * 3 + ["refinement"] * 4 + ["false_negatives"] * 3


def test_a_dropped_in_file_is_a_stage_and_after_reorders(tmp_path: Path) -> None:
    write(tmp_path, a=STAGE + "after: c\n", b=STAGE + "after: null\n", c=STAGE)
    assert [s.name for s in load_curriculum(tmp_path)] == ["b", "c", "a"]


def test_quotas_give_remainders_to_the_hardest() -> None:
    assert quotas({1: 0.875, 2: 0.125}, 16) == {1: 14, 2: 2}
    assert quotas({1: 0.5, 2: 0.5}, 5) == {1: 2, 2: 3}


NEGATIVES = STAGE[STAGE.index("negatives:") : STAGE.index("epochs:")]


def with_negatives(text: str) -> str:
    return STAGE.replace(NEGATIVES, f"negatives: {text}\n")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tree_distance", TreeDistance()),
        ("{kind: tree_distance, alpha: 0.5, mask_siblings: true}", TreeDistance(alpha=0.5, mask_siblings=True)),
        ("near_far", NearFar()),
        ("{kind: mined, rest: near_far}", Mined(rest=NearFar())),
        (
            "{kind: router_guided, share: {start: 0, end: 0.5}, rest: {kind: mined, pool: batch, rest: near_far}}",
            RouterGuided(share=Anneal(start=0, end=0.5), rest=Mined(pool="batch", rest=NearFar())),
        ),
    ],
)
def test_negatives_name_a_policy_with_its_keys(tmp_path: Path, text: str, spec: Negatives) -> None:
    assert load_curriculum(write(tmp_path, a=with_negatives(text)))[0].negatives == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{kind: nearby}", "negatives: "),
        ("{kind: tree_distance, alfa: 1}", "unknown key 'negatives.alfa'; did you mean 'alpha'?"),
        ("{kind: near_far, alpha: 1}", "unknown key 'negatives.alpha'; known are kind, threshold, near."),
        ("{kind: near_far, near: 2}", "negatives.near: "),
        ("{kind: mined, rest: {kind: near_far, nearr: 1}}", "unknown key 'negatives.rest.nearr'; did you mean 'near'?"),
        ("{kind: mined}", "negatives.rest: "),
        ("{kind: mined, share: 1.5, rest: near_far}", "share 1.5 is more than 1"),
        ("{kind: tree_distance, alpha: {start: 1, end: 0, low: 2, high: 1}}", "low 2 is not below high 1"),
        ("near_far\nfalse_negatives: {mode: forget}", "false_negatives.mode: "),
        (
            "near_far\nfalse_negatives: {mode: attract, cluster: 5}",
            "'false_negatives.cluster'; did you mean 'clusters'",
        ),
        ("near_far\nattraction: 1", "attraction has a weight, but nothing is attracted"),
        ("near_far\nphases: [{name: a, until: 1, negatives: near_far}]", "phases stand in place of negatives"),
    ],
)
def test_impossible_negatives_are_refused_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, bad=with_negatives(text))
    with pytest.raises(SettingsError) as raised:
        load_curriculum(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'bad.yaml'}: ")
    assert message in str(raised.value)


@pytest.mark.parametrize("ends", [(0.5, 0.4, 1), (0.3, 0.7), (0.5, 0.5, 1)])
def test_phases_end_one_after_another_and_the_last_with_the_stage(tmp_path: Path, ends: tuple[float, ...]) -> None:
    phases = ", ".join(f"{{name: p{n}, until: {end}, negatives: near_far}}" for n, end in enumerate(ends))
    write(tmp_path, bad=STAGE.replace(NEGATIVES, f"phases: [{phases}]\n"))
    with pytest.raises(SettingsError, match=r"bad\.yaml: phases end at .*name rising shares, the last one 1"):
        load_curriculum(tmp_path)


def test_what_is_annealed_moves_by_epoch_or_by_a_metric() -> None:
    state = CurriculumState(epochs=5)
    by_epoch, by_metric = Anneal(start=2, end=0), Anneal(start=0, end=1, by="cophenetic", low=0.5, high=0.9)
    found = []
    for epoch, cophenetic in enumerate((None, 0.4, 0.7, 0.9, 0.99)):
        state.epoch, state.metrics = epoch, {} if cophenetic is None else {"cophenetic": cophenetic}
        found.append((state.value(by_epoch), state.value(by_metric)))
    assert found == [(2, 0), (1.5, 0), (1, pytest.approx(0.5)), (0.5, 1), (0, 1)]
    assert state.value(0.7) == 0.7


def test_of_several_ends_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, a=STAGE, b=STAGE, c=STAGE + "after: a\n", d=STAGE)
    stages = load_curriculum(tmp_path)
    assert [(s.name, s.after) for s in stages] == [("a", None), ("b", "a"), ("c", "a"), ("d", "c")]
    assert [final_stage(stages, name).name for name in ("b", "d", "c")] == ["b", "d", "c"]
    with pytest.raises(SettingsError, match=r"ends in 2 stages, b, d\. Name the one .* final_stage"):
        final_stage(stages, None)
    with pytest.raises(SettingsError, match="no stage 'e'"):
        final_stage(stages, "e")
    assert final_stage(stages[:2], None).name == "b"
    assert [s.name for s in lineage(stages, stages[3])] == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0.125", "0.025"), "negatives.bucket_percentages: the shares sum to 0.9"),
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
        ((NEGATIVES, ""), "negatives is missing, and the stage compares codes"),
        (("  difficulty_buckets: [1, 2]\n", ""), "negatives.difficulty_buckets: "),
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
        attracted = "false_negatives: {mode: attract}\n" if term == "attraction" else ""
        (stage,) = load_curriculum(write(tmp_path, a=f"{STAGE}{attracted}{term}: {weight}\n"))
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
