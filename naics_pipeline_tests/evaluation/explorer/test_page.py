"""The page as its reader has it, in headless Chromium."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from naics_pipeline.evaluation.explorer.page import write_explorer
from naics_pipeline.evaluation.explorer.spaces import PicturedSpace
from naics_pipeline_tests.evaluation.pages import OpenPage

FILLED = "#codes tbody tr"
"""The last thing that the page fills in."""


@pytest.fixture(scope="module")
def opened(browser: Any, content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> OpenPage:
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    write_explorer(path, content)
    return OpenPage(browser, path, FILLED)


@pytest.fixture
def explorer(opened: OpenPage) -> OpenPage:
    opened.page.goto(opened.path.as_uri())
    opened.page.reload()
    opened.page.wait_for_selector(FILLED)
    opened.said.clear()
    return opened


def has_selected(page: Any, code: str) -> None:
    """Waits until this code is marked; to wait for a function would need eval, which the page forbids."""
    page.wait_for_selector(f"#disk[data-selected='{code}']")


def code_in_the_middle(explorer: OpenPage) -> str:
    """The code that the tip names when the middle of the disk is pointed at."""
    box = explorer.page.locator("#disk").bounding_box()
    explorer.page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    return explorer.page.locator("#tip b").inner_text(timeout=3000).split()[0]


def test_nothing_is_asked_for_and_nothing_goes_wrong(opened: OpenPage, content: dict[str, Any]) -> None:
    assert opened.asked == [opened.path.as_uri()]
    assert opened.said == []
    assert opened.page.locator("#density svg").count() == 2
    assert f"r = {content['spaces'][0]['correlation']:.2f}" in opened.page.locator("#trust").inner_text()
    assert opened.page.locator("#reliability svg").count() == 5


def test_search_flies_to_the_code_and_shows_its_nearest(explorer: OpenPage, content: dict[str, Any]) -> None:
    page, codes = explorer.page, content["codes"]
    page.keyboard.press("/")
    page.keyboard.type("3118")
    assert page.locator("#results li").first.inner_text().startswith("3118 ")
    page.keyboard.press("Enter")
    has_selected(page, "3118")
    page.wait_for_timeout(1500)
    assert code_in_the_middle(explorer) == "3118"
    at = codes["code"].index("3118")
    width = len(content["spaces"][0]["neighbours"]) // len(codes["code"])
    near = content["spaces"][0]["neighbours"][at * width : (at + 1) * width]
    assert page.locator(".nearest td:first-child").all_inner_texts() == [codes["code"][i] for i in near]
    assert page.evaluate("location.hash") == "#3118"


def test_words_of_a_title_are_found(explorer: OpenPage, content: dict[str, Any]) -> None:
    title = content["codes"]["title"][-1]
    explorer.page.fill("#search", title)
    assert title in explorer.page.locator("#results li").first.inner_text()
    explorer.page.fill("#search", "stollen")
    assert explorer.page.locator("#results li").all_inner_texts()[0].split("\n")[1:] == ["Stollen ovens"]
    explorer.page.fill("#search", "zzz qqq")
    assert "No code" in explorer.page.locator("#results").inner_text()


def test_tip_tells_path_and_distance_in_the_full_space(explorer: OpenPage, content: dict[str, Any]) -> None:
    page, shown, codes = explorer.page, content["spaces"][0], content["codes"]
    at = codes["code"].index("3118")
    page.evaluate("location.hash = '3118'")
    has_selected(page, "3118")
    page.wait_for_timeout(1500)
    assert code_in_the_middle(explorer) == "3118"
    tip = page.locator("#tip").inner_text()
    assert f"311 {codes['title'][codes['code'].index('311')]}" in tip
    assert f"{shown['columns'][0]['values'][at]:.2f} from the origin" in tip


def test_distances_formed_in_the_page_are_those_of_the_space(
    explorer: OpenPage, content: dict[str, Any], space: Any, sample_tree: Any
) -> None:
    distances = PicturedSpace.of(space, sample_tree).distances
    page, box = explorer.page, explorer.page.locator("#disk").bounding_box()
    page.evaluate("location.hash = '3118'")
    has_selected(page, "3118")
    page.wait_for_timeout(1500)
    at, seen = content["codes"]["code"].index("3118"), set()
    for angle in range(0, 360, 20):
        for part in (0.2, 0.35):
            away, turn = part * box["height"] / 2, math.radians(angle)
            x, y = away * math.cos(turn), away * math.sin(turn)
            page.mouse.move(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)
            text = page.locator("#tip").inner_text() if page.locator("#tip").is_visible() else ""
            if found := re.search(r"(\d\.\d\d) from 3118", text):
                code = text.split()[0]
                seen.add(code)
                assert float(found[1]) == pytest.approx(distances[at, content["codes"]["code"].index(code)], abs=0.02)
    assert seen


def test_drag_wheel_and_keys_move_the_picture(explorer: OpenPage) -> None:
    page = explorer.page
    box = page.locator("#disk").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    picture = lambda: page.locator("#disk").evaluate("canvas => canvas.toDataURL()")  # noqa: E731
    pictures = [picture()]
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1] + 40, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    pictures.append(picture())
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(300)
    pictures.append(picture())
    page.locator("#disk").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    pictures.append(picture())
    assert len(set(pictures)) == 4
    page.keyboard.press("0")
    page.wait_for_timeout(1300)
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    assert picture() == pictures[0]


def test_keys_lead_through_the_tree(explorer: OpenPage, content: dict[str, Any]) -> None:
    page, codes = explorer.page, content["codes"]
    page.evaluate("location.hash = '3118'")
    has_selected(page, "3118")
    page.locator("#disk").focus()
    for key, wanted in (("p", "311"), ("c", codes["code"][codes["parent"].index(codes["code"].index("311"))])):
        page.keyboard.press(key)
        has_selected(page, wanted)


def test_tables_are_searched_and_sorted(explorer: OpenPage) -> None:
    page = explorer.page
    page.fill("#codes input", "3118")
    shown = page.locator("#codes tbody td:first-child").all_inner_texts()
    assert shown
    assert all("3118" in text for text in page.locator("#codes tbody tr").all_inner_texts())
    page.locator("#codes th button").first.click()
    assert page.locator("#codes tbody td:first-child").all_inner_texts() == shown[::-1]
    page.locator("#codes th button", has_text="Level").click()
    levels = page.locator("#codes tbody td:nth-child(3)").all_inner_texts()
    assert levels == sorted(levels, reverse=True)


def test_a_click_on_an_error_shows_text_and_codes(explorer: OpenPage, content: dict[str, Any]) -> None:
    rows = explorer.page.locator("#errors tbody tr")
    assert rows.count() == 1
    rows.first.locator("button").click()
    code = content["codes"]["code"][content["texts"]["found"][0]]
    has_selected(explorer.page, code)
    assert "text 0 </script><b>&" in explorer.page.locator("#details .note").inner_text()


def test_colours_by_a_file_of_ones_own(explorer: OpenPage, tmp_path: Path) -> None:
    page, table = explorer.page, tmp_path / "wages.csv"
    table.write_text('code,wage,kind\n3118,"1.5","bread, ""fresh"""\n311,2,other\n000000,3,x\n', encoding="utf-8")
    page.set_input_files("#file", table)
    page.locator("#file-note", has_text="2 of 3 rows").wait_for()
    assert page.locator("#colour option:checked").inner_text() == "wage"
    page.select_option("#colour", label="kind")
    assert page.locator("#legend li").all_inner_texts() == ['bread, "fresh"', "other"]
    table.write_text("a,b\n1,2\n")
    page.set_input_files("#file", [])
    page.set_input_files("#file", table)
    page.locator("#file-note", has_text="no column").wait_for()


def test_another_space_and_texts_are_drawn(explorer: OpenPage) -> None:
    page = explorer.page
    page.select_option("#space", label="Text model")
    page.select_option("#texts", "all")
    page.select_option("#colour", "errors")
    page.wait_for_timeout(400)
    assert page.locator(".ramp i").count() > 10
    assert explorer.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Any, opened: OpenPage, scheme: str) -> None:
    size = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "color_scheme": scheme}
    phone = OpenPage(browser, opened.path, FILLED, **size)
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 360
    assert phone.said == []
    box = phone.page.locator("#disk").bounding_box()
    assert box["width"] == 360
    phone.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    phone.page.close()
