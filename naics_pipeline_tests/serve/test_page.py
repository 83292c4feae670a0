"""The page in headless Chromium: typed into, no complaint, no request to any other host."""

import pytest


@pytest.fixture
def opened(browser, served):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.url)
    page.locator("#about", has_text="six-digit codes").wait_for()
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith((served.url, "data:", "blob:"))] == []
    page.close()


def test_codes_come_as_one_types_and_the_keyboard_does_it_all(opened):
    opened.keyboard.type("grooming of dogs")
    first = opened.wait_for_selector("#candidates summary")
    assert first.inner_text().startswith("812910")
    assert "812910" in opened.inner_text("#answer")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    assert "grooming of dogs" in opened.inner_text("#candidates details[open]")
    opened.keyboard.press("a")
    assert opened.inner_text("#kept li").split("\n")[:2] == ["812910", "grooming of dogs"]
    opened.keyboard.press("/")
    opened.keyboard.type("zzz qqq")
    opened.locator("#answer", has_text="No word of it is known").wait_for()


def test_a_correction_is_kept_and_saved(opened, tmp_path):
    opened.fill("#text", 'the "dog" spa,\n best in town')
    opened.fill("#right", "999999")
    opened.keyboard.press("Enter")
    opened.locator("#state", has_text="999999 is no six-digit code").wait_for()
    opened.fill("#right", "812910")
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#kept li")
    with opened.expect_download() as saved:
        opened.click("#save")
    saved.value.save_as(tmp_path / "corrections.csv")
    assert (tmp_path / "corrections.csv").read_text() == 'text,code\n"the ""dog"" spa, best in town",812910\n'


def test_a_file_is_coded_and_comes_back(opened, tmp_path):
    path = tmp_path / "firms.csv"
    path.write_text('id,"what, in words"\n1,growing corn\n2,\n')
    opened.set_input_files("#file", path)
    opened.wait_for_selector("#columns:not([hidden])")
    assert opened.eval_on_selector_all("#column option", "all => all.map(one => one.value)") == ["id", "what, in words"]
    opened.select_option("#column", "what, in words")
    with opened.expect_download() as saved:
        opened.click("#code-file")
    saved.value.save_as(tmp_path / "out.csv")
    assert saved.value.suggested_filename == "firms.coded.csv"
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith('id,"what, in words",code_1')
    assert lines[1].startswith("1,growing corn,111150,")
    assert lines[2].startswith('2,"",,,')


def test_the_page_fits_a_phone(browser, served):
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(served.url)
    page.fill("#text", "family restaurants with waiters and a very long description " * 4)
    page.wait_for_selector("#candidates summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
