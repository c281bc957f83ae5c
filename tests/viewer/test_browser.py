"""The page in a browser: it shows, selects, filters, gates, corrects, saves.

Hostile names are text. Chromium draws without a graphics card here.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from run_folders import put_objects
from viewers import served

from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.reports.population import parse_gate
from wsi_pipeline.reports.population_files import gate_run
from wsi_pipeline.viewer.library import CORRECTIONS

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(browser):
    """Opens the page of a server, and closes it; anything on the console is an error."""
    pages, said = [], []

    def open_page(server, width=1200, height=800):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.on(
            "console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.access.address)
        until(page, "performance.getEntriesByName('first-objects').length > 0")
        until(page, "performance.getEntriesByName('first-picture').length > 0")
        page.asked = asked
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    # Software rendering has notes of its own.
    assert [text for text in said if "GPU stall" not in text and "WebGL" not in text] == []


def until(page, expression, tries=600):
    """Wait until an expression holds; the page's policy forbids playwright's own way."""
    for _ in range(tries):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


def rest(page):
    """Wait until the slide does not move any more."""
    last = None
    for _ in range(200):
        page.wait_for_timeout(150)
        now = page.evaluate("JSON.stringify(wsiseg.view().box)")
        if now == last:
            return
        last = now
    raise AssertionError("the slide does not rest")


def go(page, x, y, width=400):
    page.evaluate(f"wsiseg.goTo({x}, {y}, {width}, true)")
    until(
        page,
        f"Math.abs(wsiseg.view().box.x1 - wsiseg.view().box.x0 - {width}) < 2",
    )
    page.wait_for_timeout(300)


def at(page, x, y):
    """Where a place of the slide is on the page."""
    box = page.locator("#slide").bounding_box()
    view = page.evaluate("wsiseg.view()")
    return (box["x"] + (x - view["box"]["x0"]) * view["css"],
            box["y"] + (y - view["box"]["y0"]) * view["css"])  # fmt: skip


def colours(page):
    """Number of pixels of the layer of objects that are drawn."""
    return page.evaluate(
        """async () => {
        const canvas = document.getElementById("objects");
        await new Promise(requestAnimationFrame);
        const copy = document.createElement("canvas");
        copy.width = canvas.width; copy.height = canvas.height;
        return new Promise((done) => {
          wsiseg.afterPaint(() => {
            const pen = copy.getContext("2d");
            pen.drawImage(canvas, 0, 0);
            const data = pen.getImageData(0, 0, copy.width, copy.height).data;
            let count = 0;
            for (let i = 3; i < data.length; i += 4) if (data[i]) count++;
            done(count);
          });
        });
      }"""
    )


def select(page, server, row):
    held = server.library.view(0).layer(0).sorted
    x, y = (float(v) for v in held.centres[row])
    go(page, x, y)
    page.mouse.click(*at(page, x, y))
    until(page, f"wsiseg.app.selected?.row === {row}")
    return x, y


def a_nucleus(server):
    """The row of a nucleus that is alone in its cell."""
    parent = server.library.view(0).layer(0).sorted.objects.parent
    counts = np.bincount(parent[parent >= 0], minlength=len(parent))
    return int(np.flatnonzero((parent >= 0) & (counts[parent] == 1))[7])


def test_it_shows_the_slide_and_its_objects_from_this_server_alone(server, opened):
    page = opened(server)
    assert page.inner_text("#title") == "crowded.svs"
    assert "#" not in page.evaluate("location.href")  # the token is not left in the address
    assert "not a medical device" in page.inner_text("#foot")
    assert "µm" in page.inner_text("#scale-text")
    assert colours(page) > 100
    page.keyboard.press("h")
    assert colours(page) == 0
    page.keyboard.press("h")
    assert colours(page) > 100
    assert {url.split("/")[2] for url in page.asked if not url.startswith("blob:")} == {
        server.access.hosts[0]
    }
    page.reload()
    until(page, "performance.getEntriesByName('first-objects').length > 0")


def test_a_click_shows_the_numbers_of_the_smallest_object(server, opened):
    page = opened(server)
    row = a_nucleus(server)
    select(page, server, row)
    text = page.inner_text("#object")
    assert "nucleus" in text and "Area" in text and "its cell" in text
    page.click("text=its cell")
    parent = int(server.library.view(0).layer(0).sorted.objects.parent[row])
    until(page, f"wsiseg.app.selected?.row === {parent}")
    page.keyboard.press("Escape")
    until(page, "wsiseg.app.selected === null")


def test_classes_and_filters_hide_objects(server, opened, cells):
    page = opened(server)
    layer = "wsiseg.app.layers[0]"
    page.uncheck("label.class:has-text('cell') input")
    assert page.evaluate(f"{layer}.passing") == int((cells.class_index == 1).sum())
    page.check("label.class:has-text('cell') input")
    page.select_option("select[aria-label='Add a filter on a measurement']", label="Score")
    page.fill("input[type=number][aria-label='Score, from']", "0.75")
    page.keyboard.press("Tab")
    until(page, f"{layer}.passing === {int((cells.score >= 0.75).sum())}")
    page.select_option("#colour-by", label="Cell: Area µm^2")
    until(page, f"{layer}.colourBy !== null")
    assert page.is_visible(".ramp")


def test_a_gate_marks_lists_and_exports_its_cells(server, opened, run, tmp_path):
    page = opened(server)
    page.click("#tab-plot")
    until(page, "document.getElementById('plot') !== null")
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    corners = [(0.2, 0.05), (0.97, 0.05), (0.97, 0.85), (0.2, 0.85)]
    places = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in [*places[1:], places[0]]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    until(page, "wsiseg.app.layers[0].marks !== null")
    marked = page.evaluate("wsiseg.app.layers[0].marks.reduce((a, b) => a + b, 0)")
    assert marked > 0
    assert f"{marked} objects in the gate" in page.inner_text("#panel-plot")
    with page.expect_download() as download:
        page.click("text=Export GeoJSON")
    path = tmp_path / "gate.geojson"
    download.value.save_as(path)
    objects = read_geojson(path)
    assert sum(objects.classes[k] == "cell" for k in objects.class_index) == marked
    with page.expect_download() as download:
        page.click("text=Save gate")
    download.value.save_as(tmp_path / "gate.json")
    gated = gate_run(run, None, None, parse_gate(str(tmp_path / "gate.json")))
    assert len(gated.inside) == marked
    page.click("#panel-plot >> text=Gallery")
    page.wait_for_selector("#panel-gallery .cell")
    assert f"Of the {marked} objects in the gate" in page.inner_text("#panel-gallery")
    page.click("text=Gallery of all")
    page.wait_for_selector("#panel-gallery >> text=Cells that differ most from the rest")


def test_a_gate_needs_no_pointer(server, opened):
    page = opened(server)
    page.click("#tab-plot")
    page.wait_for_selector("#plot")
    held = server.library.view(0).layer(0).sorted
    name = page.evaluate("document.querySelector('#panel-plot select').selectedOptions[0].text")
    kind = held.objects.classes.index(held.plotted_class())
    values = held.column(name)[held.objects.class_index == kind]
    limit = round(float(np.median(values))) + 0.5
    page.fill("input[aria-label='Across, from']", str(limit))
    page.keyboard.press("Enter")
    until(page, "wsiseg.app.layers[0].marks !== null")
    marked = page.evaluate("wsiseg.app.layers[0].marks.reduce((a, b) => a + b, 0)")
    assert marked == (values > limit).sum() > 0
    assert page.evaluate("document.activeElement.ariaLabel") == "Across, from"


def test_corrections_are_made_undone_saved_and_read_back(server, opened, run, cells):
    page = opened(server)
    page.click("#tab-correct")
    held = server.library.view(0).layer(0).sorted
    first = a_nucleus(server)
    gone = page.evaluate("crypto.randomUUID()")
    select(page, server, first)
    page.keyboard.press("x")
    until(page, "document.body.classList.contains('dirty')")
    page.keyboard.press("Control+z")
    until(page, "!document.body.classList.contains('dirty')")
    page.keyboard.press("Control+Shift+z")
    second = first + 3 if held.objects.parent[first + 3] < 0 else first + 4
    x, y = (float(v) for v in held.centres[second])
    draw_square(page, x + 60, y + 60)
    until(page, "wsiseg.app.selected !== null && wsiseg.app.selected.row === -1")
    drawn = page.evaluate("wsiseg.app.selected.id")
    page.keyboard.press("2")  # its class becomes nucleus
    assert page.evaluate("wsiseg.app.selected.class") == "nucleus"
    page.keyboard.press("Control+s")
    until(page, "!document.body.classList.contains('dirty')")
    after = read_geojson(run / CORRECTIONS)
    assert len(after) == len(cells)  # one less, one more
    assert gone not in page.inner_text("body")
    page.reload()
    until(page, "performance.getEntriesByName('first-objects').length > 0")
    until(page, "wsiseg.app.layers[0].edited.size === 1")
    page.click("#tab-correct")
    assert "1 deleted" in page.inner_text("#panel-correct")
    assert "1 added" in page.inner_text("#panel-correct")
    ids = [f"{int(a) << 64 | int(b):032x}" for a, b in after.ids]
    assert drawn.replace("-", "") in ids
    page.click("li:has-text('deleted') >> text=Revert")
    until(page, "wsiseg.app.layers[0].edited.size === 0")
    page.keyboard.press("Control+s")
    until(page, "!document.body.classList.contains('dirty')")
    assert len(read_geojson(run / CORRECTIONS)) == len(cells) + 1


def draw_square(page, x, y, half=15):
    """Draw a square around a place, corner by corner."""
    go(page, x, y, 300)
    page.keyboard.press("d")
    for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        page.mouse.click(*at(page, x + dx * half, y + dy * half))
    page.keyboard.press("Enter")


def test_an_outline_is_reshaped_by_its_corners(server, opened):
    page = opened(server)
    row = a_nucleus(server)
    select(page, server, row)
    before = page.evaluate("JSON.stringify(wsiseg.app.selected.rings)")
    page.keyboard.press("r")
    rest(page)
    corner = page.locator("circle.corner").first.bounding_box()
    page.mouse.move(corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2)
    page.mouse.down()
    page.mouse.move(corner["x"] + 40, corner["y"] + 30, steps=3)
    page.mouse.up()
    page.keyboard.press("Enter")
    until(page, "document.body.classList.contains('dirty')")
    assert page.evaluate("JSON.stringify(wsiseg.app.selected.rings)") != before
    assert page.evaluate("wsiseg.app.layers[0].edited.size") == 1


def test_the_gallery_leads_to_its_cells(server, opened):
    page = opened(server)
    page.click("#tab-gallery")
    until(page, "document.querySelectorAll('.cell').length > 3")
    assert "no diagnosis" in page.inner_text("#panel-gallery").lower()
    until(page, "document.querySelector('.cell img').naturalWidth > 0")
    page.keyboard.press("n")
    until(page, "wsiseg.app.selected !== null")
    first = page.evaluate("wsiseg.app.selected.row")
    page.keyboard.press("n")
    until(page, f"wsiseg.app.selected.row !== {first}")


def test_names_from_a_run_are_text(slide_path, run, opened, cells):
    bad = "<img src=x onerror=\"document.title='bad'\">"
    put_objects(run, replace(cells, classes=(bad, "nucleus")))
    record = json.loads((run / "run.json").read_text())
    record["model"]["name"] = bad
    (run / "run.json").write_text(json.dumps(record))
    with served([slide_path], [run]) as server:
        page = opened(server)
        for tab in ("objects", "plot", "correct"):
            page.click(f"#tab-{tab}")
            page.wait_for_timeout(200)
        assert page.locator("#side img").count() == 0
        assert "crowded" in page.title()
        page.click("#tab-objects")
        assert bad in page.inner_text("#panel-objects")


def test_a_narrow_page_has_all_its_parts(server, opened):
    page = opened(server, width=400, height=780)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    stage = page.locator("#stage").bounding_box()
    assert stage["width"] == 400 and stage["height"] > 250
    for tab in ("objects", "plot", "gallery", "correct"):
        page.click(f"#tab-{tab}")
        assert page.is_visible(f"#panel-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("#help")
    assert page.is_visible("#keys")


def test_every_control_has_a_name(server, opened):
    page = opened(server)
    for tab in ("objects", "plot", "gallery", "correct"):
        page.click(f"#tab-{tab}")
        page.wait_for_timeout(200)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select")].filter((node) =>
                 !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length
                   && node.labels[0].textContent.trim())).map((node) => node.outerHTML)"""
        )
        assert nameless == []
