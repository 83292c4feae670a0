"""What the sensor and the schedule ask for, and why not."""

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from naics_pipeline import automation, config, definitions
from naics_pipeline.assets import common
from naics_pipeline.assets.supplied import noted_last, supplied_assets
from naics_pipeline.errors import SettingsError
from naics_pipeline.files import checksum
from naics_pipeline.storage import Store
from naics_pipeline_tests import runs


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def look(tmp_path, monkeypatch, instance):
    """Evaluates the sensor, on a source directory of which the checksums are those of its files."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "codes").write_text("1")

    def checksums(*_) -> dict[str, str]:
        return {path.name: path.read_text() for path in source.iterdir()}

    monkeypatch.setattr(automation.census, "source_checksums", checksums)
    conf = config.load("sample", {"data_dir": str(tmp_path / "data")}, {})

    def evaluate():
        context = dg.build_sensor_context(
            instance=instance, resources={"conf": conf, "store": Store(conf.settings.data_dir)}
        )
        return automation.source_changed(context)

    evaluate.source = source
    evaluate.checksums = checksums
    return evaluate


def report(instance: dg.DagsterInstance, asset: str, **metadata) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))


def test_the_first_look_asks_for_a_run_where_nothing_was_built(look):
    assert look().tags == {"source_changed": "codes"}


def test_a_run_that_did_not_reach_the_report_is_asked_for_again(look, instance):
    report(instance, "evaluation_report")
    report(instance, "descriptions", source_checksums=look.checksums())
    assert look().tags == {"source_changed": "codes"}


def test_nothing_is_asked_for_while_the_report_is_of_the_files_that_are_there(look, instance):
    report(instance, "descriptions", source_checksums=look.checksums())
    report(instance, "evaluation_report")
    assert isinstance(look(), dg.SkipReason)
    (look.source / "codes").write_text("2")
    (look.source / "index").write_text("1")
    assert look().tags == {"source_changed": "codes, index"}


def test_a_file_that_disappears_is_a_change(look, instance):
    (look.source / "index").write_text("1")
    report(instance, "descriptions", source_checksums=look.checksums())
    report(instance, "evaluation_report")
    (look.source / "index").unlink()
    assert look().tags == {"source_changed": "index"}


def test_no_second_run_is_asked_for_while_one_is_under_way(look, instance):
    job = definitions.defs.resolve_job_def("full_pipeline")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "is not over yet" in look().skip_message


def test_descriptions_say_what_they_were_made_from(tmp_path):
    result = runs.materialize('key:"index_entries" or key:"descriptions"', tmp_path)
    recorded = runs.metadata(result, "descriptions")["source_checksums"]
    assert set(recorded) == {"codes.csv", "descriptions.csv", "index_entries.csv", "cross_references.csv"}
    assert all(len(checksum) == 64 for checksum in recorded.values())


@pytest.fixture
def small(monkeypatch):
    """Definitions of three assets, of which two are retrained; the text changes at will."""
    text = {"version": "1"}

    @dg.asset(code_version="1")
    def descriptions():
        return dg.MaterializeResult(data_version=dg.DataVersion(text["version"]))

    def triplets(code_version: str):
        @dg.asset(name="triplets", deps=["descriptions"], code_version=code_version)
        def made():
            return dg.MaterializeResult(data_version=dg.DataVersion("same"))

        return made

    @dg.asset(deps=["triplets", "descriptions"], code_version="1")
    def stage():
        return dg.MaterializeResult(data_version=dg.DataVersion("model"))

    def defined(code_version: str = "1") -> dg.Definitions:
        return dg.Definitions(assets=[descriptions, triplets(code_version), stage])

    defined.text = text
    return defined


def asked(definitions: dg.Definitions, instance: dg.DagsterInstance):
    context = dg.build_schedule_context(instance=instance, repository_def=definitions.get_repository_def())
    return automation.retrain_if_outdated(context)


def make(definitions: dg.Definitions, instance: dg.DagsterInstance, selection: str = "*") -> None:
    assets = definitions.get_repository_def().assets_defs_by_key.values()
    assert dg.materialize(list(assets), instance=instance, selection=dg.AssetSelection.from_string(selection)).success


def test_the_schedule_trains_where_nothing_was_trained(small, instance):
    assert "stage was never made" in asked(small(), instance).tags["retrained_for"]


def test_the_schedule_does_not_train_the_same_again(small, instance):
    make(small(), instance)
    assert "the same seed would give the same model" in asked(small(), instance).skip_message


def test_the_schedule_trains_on_other_texts_and_with_other_settings(small, instance):
    make(small(), instance)
    assert asked(small("2"), instance).tags == {"retrained_for": "triplets: other code or settings"}
    small.text["version"] = "2"
    make(small(), instance, "key:descriptions")
    assert asked(small(), instance).tags == {
        "retrained_for": "triplets: another descriptions; stage: another descriptions"
    }


@pytest.fixture
def corrected(tmp_path, monkeypatch):
    """Definitions of two assets of which the first reads corrections, and the file that holds them."""
    file = tmp_path / "corrections.csv"
    file.write_text("text,code\ndog grooming,812910\n")
    conf = config.load("sample", {"taxonomy.corrections": str(file)}, {})
    monkeypatch.setattr(common, "defined_conf", lambda: conf)
    monkeypatch.setattr(automation, "defined_conf", lambda: conf)

    @common.asset(code_version="1", supplied="corrections")
    def index_entries(conf: dg.ResourceParam[config.Config]):
        return dg.MaterializeResult(data_version=dg.DataVersion("1"))

    @common.asset(code_version="1", deps=[index_entries])
    def triplets():
        return dg.MaterializeResult(data_version=dg.DataVersion("1"))

    @common.asset(code_version="1")
    def relations():
        return dg.MaterializeResult(data_version=dg.DataVersion("1"))

    definitions = dg.Definitions(
        assets=[index_entries, triplets, relations, *supplied_assets(conf)],
        resources={"conf": dg.ResourceDefinition.hardcoded_resource(conf)},
    )
    return definitions, file, conf


def stale(definitions: dg.Definitions, instance: dg.DagsterInstance) -> set[str]:
    """What Dagster's UI marks as stale."""
    context = LoadingContextForTest(instance)
    resolver = CachingStaleStatusResolver(instance, definitions.resolve_asset_graph(), context)
    names = ("index_entries", "triplets", "relations")
    return {name for name in names if resolver.get_status(dg.AssetKey(name)) == StaleStatus.STALE}


def make_all(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    assert definitions.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance).success


def test_corrections_under_the_same_name_are_trained_on(corrected, instance):
    definitions, file, _ = corrected
    make_all(definitions, instance)
    assert stale(definitions, instance) == set()
    assert isinstance(asked(definitions, instance), dg.SkipReason)
    with file.open("a") as more:
        more.write("dog walking,812910\n")
    request = asked(definitions, instance)
    assert request.tags == {"retrained_for": "index_entries: another corrections"}
    assert {key.to_user_string() for key in request.asset_selection} == {"index_entries", "triplets"}
    assert "index_entries" in stale(definitions, instance)
    make_all(definitions, instance)
    assert stale(definitions, instance) == set()
    assert isinstance(asked(definitions, instance), dg.SkipReason)


def test_what_was_read_counts_though_nobody_looked_before_the_run(corrected, instance):
    definitions, file, _ = corrected
    make_all(definitions, instance)
    with file.open("a") as more:
        more.write("dog walking,812910\n")
    make_all(definitions, instance)
    assert stale(definitions, instance) == set()
    assert isinstance(asked(definitions, instance), dg.SkipReason)


def test_the_sensor_shows_what_a_file_of_users_makes_stale(corrected, instance):
    definitions, file, conf = corrected
    make_all(definitions, instance)

    def look() -> str:
        context = dg.build_sensor_context(instance=instance, resources={"conf": conf})
        return automation.supplied_changed(context).skip_message

    assert look() == "corrections as before."
    file.write_text("text,code\n")
    assert stale(definitions, instance) == set()
    assert look().startswith("Other content in corrections")
    assert "index_entries" in stale(definitions, instance)
    file.unlink()
    with pytest.raises(SettingsError, match=r"taxonomy.corrections: .*corrections.csv cannot be read"):
        look()


def test_a_file_of_users_is_looked_at_from_the_ui(corrected, instance):
    definitions, file, _ = corrected
    (observed,) = definitions.resolve_asset_graph().observable_asset_keys
    everything = definitions.resolve_implicit_global_asset_job_def()
    assert everything.execute_in_process(instance=instance, asset_selection=[observed]).success
    assert noted_last(instance, observed) == checksum(file)


def test_a_schedule_that_is_no_cron_expression_is_refused(monkeypatch):
    broken = config.load("sample", {"orchestration.retraining_schedule": "monthly"}, {})
    monkeypatch.setattr(automation, "defined_conf", lambda: broken)
    with pytest.raises(SettingsError, match=r"--set orchestration.retraining_schedule.*'monthly'"):
        automation.retraining_schedule()
