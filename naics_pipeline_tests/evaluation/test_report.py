"""The page stands alone, says what the numbers say, and survives whatever a title or a fault brings."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from naics_pipeline.evaluation.compare import gate, paired_bootstrap
from naics_pipeline.evaluation.glossary import READOUTS
from naics_pipeline.evaluation.report import (
    ReportContent,
    by_readout,
    headline,
    render,
    write_report,
)
from naics_pipeline.evaluation.runs.scores import RunRecord

NAN = float("nan")


def content(**changes: Any) -> ReportContent:
    text = {"cophenetic_correlation": 0.93, "ndcg@10": 0.80, "parent_retrieval@1": 0.81, "distortion_mean": 0.2}
    refined = {"cophenetic_correlation": 0.99, "ndcg@10": 0.92, "parent_retrieval@1": 0.98, "distortion_mean": 0.1}
    better = paired_bootstrap(np.zeros(9), np.ones(9), seed=0)
    whole = ReportContent(
        source="sample",
        vintage=2022,
        codes=2125,
        queries_count=4103,
        created="2024-05-01 12:00 UTC",
        structure={"text": text, "smoothed": text | {"sector_auc": NAN}, "refined": refined, "linear_svm": {}},
        ceiling={"cophenetic_correlation": 1.0, "ndcg@10": 0.934},
        queries={"text": {"query_top1": 0.66}, "refined": {"query_top1": 0.67}, "linear_svm": {"query_top1": 0.70}},
        stages={"01_easy": text},
        left_out={
            "left_out_codes": 101.0,
            "left_out_parent_retrieval@1_refined": 0.87,
            "kept_parent_retrieval@1_refined": 0.98,
        },
        comparisons={"ndcg@10": asdict(better)},
        gate=[asdict(rule) for rule in gate(text, refined)],
        pictures={"radius_by_level": b"\x89PNG not looked into", "another_one": b"\x89PNG"},
        neighbours={"111110 Soybean Farming": pl.DataFrame({"code": ["11111"], "distance": [1.051]})},
        settings={"seed": 42, "model.base": "all-MiniLM-L6-v2"},
    )
    return replace(whole, **changes)


def table(page: str, first_heading: str) -> str:
    found = re.search(rf"<table>\s*<thead><tr><th>{first_heading}.*?</table>", page, re.DOTALL)
    assert found
    return found[0]


def row(table_: str, label: str) -> list[str]:
    found = next(line for line in table_.split("<tr>") if line.startswith(f"<td>{label}"))
    return re.findall(r"<td[^>]*>([^<]*)", found)[1:]


def test_nothing_is_fetched_from_anywhere() -> None:
    page = render(content())
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("<img") == 2
    assert not re.search(r"https?://|<link|src=[^\"]|@import|url\(", page)
    assert page.count("<script") == 1


def test_values_stand_beside_their_ceiling_with_the_best_marked() -> None:
    structure = table(render(content()), "Metric")
    assert row(structure, "Cophenetic correlation") == ["0.930", "0.930", "0.990", "1.000"]
    assert re.findall(r'class="best">([^<]*)', structure) == ["0.990", "0.920", "0.980", "0.100"]
    assert "Linear SVM" not in structure
    assert row(table(render(content()), "Method"), "Linear SVM") == ["0.700"]


def test_what_is_not_defined_is_a_dash() -> None:
    structure = table(render(content()), "Metric")
    assert row(structure, "Sector AUC") == ["–", "–", "–", "–"]
    nothing = {"text": {"cophenetic_correlation": None, "distortion_worst": float("inf")}}
    assert "–" in render(content(structure=nothing))


def test_headline_says_what_the_numbers_say() -> None:
    words = headline(content())
    assert "0.99 (text alone: 0.93)" in words
    assert "67 of 100" in words
    assert "Linear SVM: 70" in words
    control = {**content().queries, "smoothed": {"query_top1": 0.99}}
    assert "Linear SVM: 70" in headline(content(queries=control))
    assert headline(content(structure={}, queries={})) == "Evaluation of 2,125 codes."
    assert "–" in headline(content(structure={"text": {"cophenetic_correlation": None}}, queries={}))


def test_each_read_out_is_a_row_of_its_own() -> None:
    text = {
        "query_top1": 0.5,
        "unrepeated/query_top1": 0.4,
        "nearest_entry/query_top1": 0.6,
        "mixed/query_top1": 0.7,
        "unrepeated/mixed/query_top1": 0.65,
        "mixed/weight": 0.5,
        "labelled/texts": 299.0,
        "labelled/left_out": 7.0,
        "labelled/other_codes": 27.0,
        "labelled/top1": 0.31,
        "labelled/parts/top1": 0.35,
        "labelled/mixed_parts/top1": 0.33,
    }
    whole = content(queries={"text": text, "tfidf": {"query_top1": 0.55}}, structure={"text": {**text, "ndcg@10": 0.9}})
    page = render(whole)
    held_out, labelled = table(page, "Method</th>"), table(page, "Method, labelled")
    assert row(held_out, "Text model: the code’s point") == ["0.500", "0.400"]
    assert row(held_out, "Text model: nearest entry") == ["0.600", "–"]
    assert row(held_out, "Text model: all three mixed") == ["0.700", "0.650"]
    assert row(held_out, "TF‑IDF") == ["0.550", "–"]
    assert row(labelled, "Text model: with parts") == ["0.350"]
    assert row(labelled, "Text model: all three mixed, with parts") == ["0.330"]
    assert "299 labelled texts" in page
    assert "7 texts all of whose codes" in page
    assert "mixed/weight" not in page
    assert "70 of 100" in headline(whole)
    assert by_readout({"svm": {"query_top1": 0.5}}) == {"svm": {"query_top1": 0.5}}


def test_stages_are_shown_with_validation_and_read_outs() -> None:
    stage = {"ndcg@10": 0.8, "validation/query_top1": 0.5, "query_top1": 0.45, "validation/mixed/query_top1": 0.6}
    stage |= {"nearest_entry/query_top1": 0.55, "mixed/query_top1": 0.58}
    shown = table(render(content(stages={"01_easy": stage})), "Stage and read-out")
    assert row(shown, "01_easy: the code’s point") == ["0.500", "0.450"]
    assert row(shown, "01_easy: all three mixed") == ["0.600", "0.580"]


def test_what_is_one_by_construction_is_said_to_be() -> None:
    words = "1 by construction"
    assert words in render(content(settings={"graph.radii": "level"}))
    assert words not in render(content(settings={"graph.radii": "free"}))
    assert words not in render(content())


def test_refinement_that_does_not_beat_smoothing_is_reported_as_such() -> None:
    assert "at least as good as plain smoothing" in render(content())
    columns = dict(content().structure)
    columns["smoothed"] = {**columns["smoothed"], "ndcg@10": 0.99, "distortion_mean": 0.05}
    page = render(content(structure=columns))
    assert "does not beat plain smoothing on 2 of 4 metrics: NDCG@10, Mean distortion" in page


def test_generalisation_and_gate_are_shown() -> None:
    page = render(content())
    assert row(table(page, "Codes"), r"left out (101 codes)") == ["0.870"]
    assert page.count('class="yes">yes') == 3
    failed = [{"metric": "ndcg@10", "before": 0.9, "after": 0.8, "minimum": -0.01}]
    warned = render(content(gate=failed))
    assert 'class="no">no' in warned
    assert "failed the gate: NDCG@10. Use" in warned
    assert "failed the gate" not in page


def test_what_the_points_are_good_for_stands_beside_baselines() -> None:
    tasks = {"classify_sector": 0.8, "vote_digits_2": 0.9, "cluster_ari_digits_3": 0.4}
    tfidf = {name: value - 0.1 for name, value in tasks.items()}
    bounds = {"text": {"classify_sector": [0.78, 0.82]}}
    whole = content(structure={"text": {"ndcg@10": 0.8} | tasks, "tfidf": tfidf}, intervals=bounds)
    page = render(whole)
    part = page[page.index("good for?") : page.index("Do unseen texts")]
    assert row(part, "Sector told") == ["0.800", "0.700"]
    assert row(part, "Adjusted Rand index, 3 digits") == ["0.400", "0.300"]
    assert "0.780–0.820" in part
    assert "The tree itself" not in part
    assert "good for?" not in render(content())


def test_how_far_probabilities_hold_is_shown_of_what_gives_them() -> None:
    text = {"query_top1": 0.5, "nearest_entry/query_top1": 0.6, "blend/calibration_error": 0.02}
    page = render(content(queries={"text": text | {"blend/answered_at_95_digits_4": 0.81}}))
    assert row(table(page, "Read-out"), f"Text model: {READOUTS['blend']}") == ["0.020", "0.810"]
    assert "a probability be trusted" not in render(content())


def test_an_empty_report_is_still_a_page() -> None:
    bare = ReportContent("sample", 2022, 5, 0, "now", structure={}, ceiling={}, queries={})
    assert "Evaluation of 5 codes." in render(bare)


def test_text_from_outside_is_escaped() -> None:
    page = render(content(source="<script>alert(1)</script>", neighbours={"<b>": pl.DataFrame({"<i>": ["<u>"]})}))
    assert not re.search(r"<script>alert|<b>|<i>|<u>", page.replace("<b>Top 1</b>", ""))


def test_a_report_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "index.html"
    write_report(path, content())
    before = path.read_text()
    with pytest.raises(KeyError):
        write_report(path, content(comparisons={"ndcg@10": {}}))
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_every_run_is_listed_with_a_link_to_its_page_and_what_failed() -> None:
    records = {
        "text": {
            "metrics": {"text": {"mixed/query_top1": 0.5}},
            "evaluated": {"run_id": "b1", "created": "2026-01-02T03:04:05+00:00"},
        },
        "refined": {
            "metrics": {"refined": {"cophenetic_correlation": 0.9}},
            "evaluated": {"run_id": "b1", "created": "2026-01-02T03:05:05+00:00", "settings": {"seed": 7}},
            "gate": [{"metric": "ndcg@10", "before": 0.9, "after": 0.8, "minimum": -0.01}],
        },
    }
    records = {name: {"measured": {}, "curves": {}, **record} for name, record in records.items()}
    runs = [RunRecord(name, {}, records) for name in ("aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc")]
    listed = table(render(content(run="aaaaaaaaaa", runs=runs, pages={"bbbbbbbbbb"})), "Run")
    assert 'href="bbbbbbbbbb.html"' in listed
    assert listed.count("href") == 1
    assert "cccccccc" in listed
    assert listed.count("failed: ndcg@10") == 3
    assert all(words in listed for words in ("2026-01-02 03:05", "0.900", "0.500", "<td>7</td>"))


def test_intervals_stand_below_the_values_that_have_them() -> None:
    text = {"query_top1": 0.5, "nearest_entry/query_top1": 0.6, "mixed/query_top1": 0.7}
    bounds = {"text": {"mixed/query_top1": [0.68, 0.72], "ndcg@10": [0.79, 0.81]}, "linear_svm": {"query_top1": [0, 1]}}
    page = render(content(queries={**content().queries, "text": text}, intervals=bounds))
    assert '0.700<span class="interval">0.680–0.720</span>' in table(page, "Method</th>")
    assert '0.800<span class="interval">0.790–0.810</span>' in table(page, "Metric")
    assert page.count('class="interval"') == 3


def test_stages_probabilities_and_codes_left_out_have_intervals_too() -> None:
    stage = {"ndcg@10": 0.8, "validation/mixed/query_top1": 0.6, "mixed/query_top1": 0.58}
    bounds = {
        "01_easy": {"ndcg@10": [0.71, 0.89], "validation/mixed/query_top1": [0.51, 0.69]},
        "text": {"blend/calibration_error": [0.01, 0.03]},
    }
    page = render(
        content(
            stages={"01_easy": stage},
            queries={"text": {"query_top1": 0.5, "blend/calibration_error": 0.02}},
            intervals=bounds,
            left_out_intervals={"left_out_parent_retrieval@1_refined": [0.8, 0.92]},
        )
    )
    assert '0.800<span class="interval">0.710–0.890</span>' in table(page, "Stage</th>")
    assert '0.600<span class="interval">0.510–0.690</span>' in table(page, "Stage and read-out")
    assert '0.020<span class="interval">0.010–0.030</span>' in table(page, "Read-out")
    assert '0.870<span class="interval">0.800–0.920</span>' in table(page, "Codes")
