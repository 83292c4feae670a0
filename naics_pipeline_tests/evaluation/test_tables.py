"""Tables of report and comparison as their reader has them, in headless Chromium."""

from pathlib import Path
from typing import Any

import pytest

from naics_pipeline.evaluation.report import ReportContent, write_report
from naics_pipeline.evaluation.runs.comparison import compare_runs
from naics_pipeline.evaluation.runs.page import write_comparison
from naics_pipeline_tests.evaluation.pages import OpenPage
from naics_pipeline_tests.evaluation.runs.test_comparison import keep

FOUND = {"tfidf": 0.2, "linear_svm": 0.7, "frozen_text": None, "text": 1e-5, "refined": 0.66}
METHODS = "table:has(button:text-is('Method'))"


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> OpenPage:
    path = tmp_path_factory.mktemp("report") / "index.html"
    settings = {f"part.key_{number}": number for number in range(120)}
    content = ReportContent(
        "sample",
        2022,
        2125,
        4103,
        "now",
        structure={"text": {"cophenetic_correlation": 0.93}},
        ceiling={"cophenetic_correlation": 1.0},
        queries={name: {"query_top1": value, "query_mrr": 0.5} for name, value in FOUND.items()},
        intervals={"linear_svm": {"query_top1": [0.6, 0.8]}},
        settings=settings,
    )
    write_report(path, content)
    return OpenPage(browser, path, "th button")


@pytest.fixture
def page(opened: OpenPage) -> Any:
    opened.page.reload()
    opened.page.wait_for_selector("th button")
    return opened.page


def column(page: Any, number: int) -> list[str]:
    """What stands in a column of the table of methods, the first line of each cell."""
    cells = page.locator(f"{METHODS} tbody tr:visible td:nth-child({number})").all_inner_texts()
    return [cell.split("\n")[0] for cell in cells]


def test_the_page_asks_for_nothing_and_breaks_no_rule_of_its_own(opened: OpenPage) -> None:
    assert opened.asked == [opened.path.as_uri()]
    assert opened.said == []
    bar = opened.page.locator(f"{METHODS} td[style]").first
    assert "4px" in bar.evaluate("cell => getComputedStyle(cell).backgroundSize")


def test_a_heading_sorts_down_then_up_then_as_written(page: Any) -> None:
    written = column(page, 2)
    assert sorted(written) == sorted(["0.200", "0.700", "–", "1.0e-05", "0.660"])
    heading = page.locator(f"{METHODS} th:nth-child(2)")
    for order, expected in (
        ("descending", ["0.700", "0.660", "0.200", "1.0e-05", "–"]),
        ("ascending", ["1.0e-05", "0.200", "0.660", "0.700", "–"]),
        (None, written),
    ):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == order
        assert column(page, 2) == expected
    names = page.locator(f"{METHODS} th:nth-child(1) button")
    names.focus()
    for _ in range(2):
        page.keyboard.press("Enter")
    assert column(page, 1) == sorted(column(page, 1), key=str.lower)
    page.locator(f"{METHODS} th:nth-child(3) button").click()
    assert page.locator(f"{METHODS} [aria-sort]").count() == 1


def test_a_long_table_is_searched_by_all_words_typed(page: Any) -> None:
    assert page.locator("input[type=search]").count() == 1
    page.locator("summary", has_text="settings of this run").click()
    search = page.get_by_label("Search these 120 rows")
    search.fill("KEY_11 part")
    rows = page.locator("table:has(button:text-is('Setting')) tbody tr:visible")
    assert rows.count() == 11
    assert page.locator(".search [aria-live]").inner_text() == "11 of 120 rows"
    page.locator("th", has_text="Value").locator("button").click()
    assert rows.first.inner_text().split() == ["part.key_119", "119"]
    search.fill("")
    assert rows.count() == 120


def test_tables_of_a_comparison_are_sorted_too(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "comparison.html"
    write_comparison(path, [compare_runs(keep(tmp_path, "a"), keep(tmp_path, "b", 0.01))])
    opened = OpenPage(browser, path, "th button")
    changed = opened.page.locator("table:has(button:text-is('Change'))").first
    cells = changed.locator("tbody td:nth-child(4)")
    written = cells.all_inner_texts()
    changed.locator("th:nth-child(4) button").click()
    assert cells.all_inner_texts() == sorted(written, key=float, reverse=True) != written
    assert opened.said == []
    assert opened.page.locator("input[type=search]").count() > 0
