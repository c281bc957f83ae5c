"""Laws of the review page: one file by itself, with the keys that it names, that keeps labels."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from run_folders import Page, change_run

from wsi_pipeline.reports.gallery import write_gallery
from wsi_pipeline.reports.review_page import LABELS, NOT_A_CELL
from wsi_pipeline.slides.slide import open_slide

HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=alert(1)>&x"


@pytest.fixture
def gallery(folder, slide_path):
    """The folder of a gallery of six cells, of a run with a hostile name."""
    run = json.loads((folder / "run.json").read_text("utf-8"))
    change_run(folder, model=run["model"] | {"name": HOSTILE})
    with open_slide(slide_path) as slide:
        write_gallery(folder, slide, 6)
    return folder / "gallery"


def ids(gallery):
    about = json.loads((gallery / "gallery.json").read_text("utf-8"))
    return [cell["id"] for cell in about["cells"]]


def test_only_the_script_of_the_page_may_run(gallery):
    text = (gallery / "review.html").read_text("utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2
    assert page.links == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy.split("script-src")[1]
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org)|innerHTML|eval\(", script)
    assert HOSTILE not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["model"] == HOSTILE
    assert [cell["id"] for cell in data["cells"]] == ids(gallery)
    assert [c["name"] for c in data["classes"]] == list(LABELS)
    assert len(LABELS) == 9
    assert list(LABELS)[8] == NOT_A_CELL


@pytest.fixture
def opened(browser, gallery):
    """The page in a browser, and what it complained about."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page = context.new_page()
    faults = []
    page.on("console", lambda m: faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.goto((gallery / "review.html").as_uri())
    yield page
    assert faults == []
    assert page.title() == "wsiseg: review of crowded"
    context.close()


def saved(page, tmp_path):
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "crowded.labels.json"
    download.value.save_as(tmp_path / "labels.json")
    return json.loads((tmp_path / "labels.json").read_text("utf-8"))


@pytest.mark.slow
def test_keys_label_move_undo_and_save(opened, gallery, tmp_path):
    cells = ids(gallery)
    for key in ("3", "ArrowRight", "5", "ArrowLeft", "9", " ", "1"):
        opened.keyboard.press(key)
    # 3: cell 1, goes on to 2; right: 3; 5: cell 3, on to 4; left: 3; 9: cell 3; space: 5; 1: cell 5
    wanted = {cells[0]: "LSIL", cells[2]: NOT_A_CELL, cells[4]: "NILM"}
    found = saved(opened, tmp_path)
    assert found == {
        "schema_version": 1, "slide": "crowded", "model": HOSTILE, "labels": wanted,
    }  # fmt: skip
    opened.keyboard.press("u")
    opened.keyboard.press("U")
    assert saved(opened, tmp_path)["labels"] == {cells[0]: "LSIL", cells[2]: "HSIL"}
    assert "Cell 3" in opened.inner_text("#title")
    for key, name in zip("12345678", LABELS, strict=False):
        opened.keyboard.press("Home")
        opened.keyboard.press(key)
        assert f"Cell 1: {name}." in opened.inner_text("#said")
    opened.keyboard.press("Control+2")
    # A browser may refuse a page that saves a dozen files at once, so only the last state is saved.
    assert saved(opened, tmp_path)["labels"][cells[0]] == "AIS"


@pytest.mark.slow
def test_labels_survive_and_are_read_again(opened, gallery, tmp_path):
    cells = ids(gallery)
    opened.keyboard.press("4")
    opened.click("#labels button:nth-child(6)")  # a click gives the keys back to the page
    opened.keyboard.press(" ")
    opened.reload()
    assert "2 of 6 labelled" in opened.inner_text("#progress")
    assert "Cell 4" in opened.inner_text("#title")
    assert saved(opened, tmp_path)["labels"] == {cells[0]: "ASC-H", cells[1]: "SCC"}
    other = "00000000-0000-8000-8000-000000000000"
    file = tmp_path / "read.json"
    content = {
        "schema_version": 1, "slide": "crowded", "model": "x",
        "labels": {cells[1]: "AGC", other: "HSIL", cells[2]: "<b>"},
    }  # fmt: skip
    file.write_text(json.dumps(content), "utf-8")
    opened.set_input_files("#load", file)
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(opened.locator("#said")).to_contain_text("labels read")
    assert "1 with an unknown name left out" in opened.inner_text("#said")
    assert saved(opened, tmp_path)["labels"] == {cells[0]: "ASC-H", cells[1]: "AGC", other: "HSIL"}
    file.write_text(json.dumps(content | {"slide": "another"}), "utf-8")
    opened.set_input_files("#load", file)
    expect(opened.locator("#said")).to_contain_text("another")


@pytest.mark.slow
def test_views_and_a_narrow_screen(opened):
    def lines():
        return opened.locator("#picture .outline").count()

    assert lines() >= 1
    opened.keyboard.press("o")
    assert lines() == 0
    opened.keyboard.press("c")
    assert opened.locator("#picture .outside").count() == 1
    before = opened.get_attribute("#picture", "viewBox")
    opened.keyboard.press("z")
    assert opened.get_attribute("#picture", "viewBox") != before
    assert opened.get_attribute("#outline", "aria-pressed") == "false"
    opened.set_viewport_size({"width": 400, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 400
    last = opened.locator("#labels button").last.bounding_box()
    assert last["y"] + last["height"] <= 850
    assert "score" in opened.get_attribute("#picture", "aria-label")
    names = opened.locator("button").evaluate_all(
        "all => all.map(b => b.getAttribute('aria-label') || b.textContent.trim())"
    )
    assert all(names)
