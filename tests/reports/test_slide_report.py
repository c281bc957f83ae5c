"""Laws of `wsiseg report`: one page by itself, for one run or several."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from run_folders import Page, change_run, put_objects

from wsi_pipeline import open_slide
from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.reports.cohort import SCHEMA, gather
from wsi_pipeline.reports.density_map import _per_mm2
from wsi_pipeline.reports.gallery import write_gallery
from wsi_pipeline.reports.slide_report import write_report
from wsi_pipeline.reports.slide_summary import failed_row, summarise, write_features
from wsi_pipeline.reports.templates import cell_text
from wsi_pipeline.reports.terms import FACTS, TERMS


def test_the_report_is_one_page_by_itself(folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    failed = [{"region": 7, "level0_box": [1, 2, 3, 4], "cause": "<script>alert(1)</script>"}]
    change_run(
        folder,
        slide=run["slide"] | {"id": "<b>&x", "notes": ["<i>note"]},
        failed_regions=failed,
        warnings=["<svg onload=alert(1)>"],
    )
    text = write_report(folder, tmp_path / "r.html").read_text()
    page = Page(text)
    assert not {"script", "b", "i"} & set(page.tags)
    for hostile in ("<script>alert(1)</script>", "<b>&x", "<i>note", "<svg onload=alert(1)>"):
        assert hostile in page.text
    map_, picture = page.links
    assert map_.split(",")[0] == picture.split(",")[0] == "data:image/jpeg;base64"
    code = picture.split(",")[1]
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
    drawn = cv2.imread(str(folder / "overlay.png"))
    assert shown.shape == drawn.shape
    assert np.abs(shown.astype(int) - drawn).mean() < 6
    bars = re.findall(r"<rect[^>]*><title>[^:]*: (\d+)</title>", text)
    assert sum(map(int, bars)) == len(read_parquet(folder / "objects.parquet"))
    assert write_report(folder, tmp_path / "again.html").read_text() == text


def test_the_numbers_on_the_page_are_those_of_the_row(slide_folder, tmp_path):
    text = write_report(slide_folder, tmp_path / "r.html").read_text()
    rows = [summarise(slide_folder / model) for model in ("darkness", "other")]
    for name in TERMS:
        found = re.findall(rf'data-name="{name}">([^<]*)<', text)
        known = any(row[name] is not None for row in rows)
        assert found == [cell_text(name, row[name]) for row in rows] * known, name
    (alone,) = (write_report(slide_folder / "other", tmp_path / "o.html").read_text(),)
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", alone))
    for name, label in FACTS.items():
        assert facts.get(label, "–") == cell_text(name, rows[1][name])
    assert f"{rows[1]['nuclei']} nuclei; adequacy: too few" in alone


def test_a_report_can_be_read_without_seeing_it(slide_folder, slide_path, tmp_path):
    with open_slide(slide_path) as slide:
        out = write_report(slide_folder, tmp_path / "r.html", slide=slide)
    tags = re.findall(r"<(\w+)([^>]*)>", out.read_text())
    assert ("html", ' lang="en"') in tags
    pictures = [about for tag, about in tags if tag == "img"]
    assert len(pictures) > 10 and all(re.search(r'alt="[^"]+"', p) for p in pictures)
    for about in (about for tag, about in tags if tag == "svg"):
        assert re.search(r'role="img" aria-label="[^"]+"|aria-hidden="true"', about)
    assert all('scope="' in about for tag, about in tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_the_slide_file_adds_focus_and_cells_and_must_be_that_of_the_run(
    folder, slide_path, tmp_path
):
    with open_slide(slide_path) as slide:
        text = write_report(folder, tmp_path / "r.html", slide=slide).read_text()
        plain = write_report(folder, tmp_path / "p.html").read_text()
        change_run(folder, slide=json.loads((folder / "run.json").read_text())["slide"]
                   | {"width": 1004})  # fmt: skip
        with pytest.raises(UsageError, match=r"1003 x 811 pixels, the run of darkness 1004 x 811"):
            write_report(folder, tmp_path / "x.html", slide=slide)
    assert "focus not measured" in plain and "Most atypical cells" not in plain
    assert "focus good" in text and text.count('class="outlined"') > 10


def test_a_report_shows_the_gallery_of_its_run_and_no_file_elsewhere(folder, slide_path, tmp_path):
    with open_slide(slide_path) as slide:
        write_gallery(folder, slide, 3)
    path = folder / "gallery" / "gallery.json"
    about = json.loads(path.read_text())
    about["ranking"] = "<b>rule"
    path.write_text(json.dumps(about))
    text = write_report(folder, tmp_path / "r.html").read_text()
    assert text.count('class="outlined"') == 3 and "&lt;b&gt;rule" in text
    shutil.copy(folder / "thumbnail.png", folder / "outside.jpg")
    about["cells"][0]["files"]["plain"] = "../outside.jpg"
    path.write_text(json.dumps(about))
    with pytest.raises(DataError, match="not beside it"):
        write_report(folder, tmp_path / "r.html")


def test_the_laboratory_is_behind_the_slide(folder, tmp_path):
    own = summarise(folder)
    area, density = own["nucleus_area_um2_median"], own["nuclei_per_mm2"]
    rows = [
        own | {"slide": f"s{k}", "nucleus_area_um2_median": area * (1 + 0.01 * k),
               "nuclei_per_mm2": density * (5 + 0.01 * k)}
        for k in range(8)
    ]  # fmt: skip
    rows += [own, own | {"slide": "b", "model": "b"}, failed_row("f", "c", own["model"])]
    table = tmp_path / "cohort.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), table)
    text = write_report(folder, tmp_path / "r.html", cohort=table).read_text()
    assert "8 other slides" in text and 'class="usual-shape"' in text
    assert "nuclei per mm² " + cell_text("nuclei_per_mm2", density) + " is unusual" in text
    assert "median nucleus area" not in text.split("Where the")[0]
    pq.write_table(pa.Table.from_pylist(rows[:2], SCHEMA), table)
    few = write_report(folder, tmp_path / "r.html", cohort=table).read_text()
    assert 'class="usual-shape"' not in few and "unusual" not in few
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(DataError, match=r"not a table of wsiseg.*cohort.parquet"):
        write_report(folder, tmp_path / "r.html", cohort=tmp_path / "no.parquet")


@pytest.mark.parametrize("kind", ["none", "boxes"])
def test_a_run_without_nuclei_has_a_report(kind, folder, slide_path, tmp_path):
    objects = read_parquet(folder / "objects.parquet")
    if kind == "none":
        objects = objects.take(np.zeros(0, np.int64))
    else:
        width = np.ones(len(objects), np.float32)
        objects = replace(objects, features={"Box: Width µm": width, "Box: Height µm": width})
    put_objects(folder, objects)
    change_run(folder, objects=len(objects))
    with open_slide(slide_path) as slide:
        text = write_report(folder, tmp_path / "r.html", slide=slide).read_text()
    count = f"{len(objects)} objects" if kind == "boxes" else "0 nuclei"
    assert f'<p class="finding">{count}' in text
    assert "Distributions" not in text and "Most atypical cells" not in text
    assert ("Not checked" in text) and ("Where the" in text)


def test_a_report_has_the_spike_test_and_the_cells_that_do_not_count(folder, tmp_path):
    row = {"kind": "<b>", "place": "all", "laid": 20, "found": 15, "share": 0.75, "low": 0.5,
           "high": 0.9, "cells_found": None, "cells_share": None, "cells_low": None,
           "cells_high": None}  # fmt: skip
    spike = {"schema_version": 1, "results": [row, row | {"kind": "all"}]}
    (folder / "spike").mkdir()
    (folder / "spike" / "spike.json").write_text(json.dumps(spike))
    own = summarise(folder) | {"doubled_cells": 2, "cells_without_nucleus": 1, "cut_cells": 0}
    (folder / "crowded.summary.json").write_text(json.dumps(own))
    text = Page(write_report(folder, tmp_path / "r.html").read_text()).text.replace("\u202f", " ")
    assert "It found the nuclei of 15 of 20 of them, 75 % (50 % to 90 %)." in text
    assert "Not counted: 1 cell without nucleus, no cut outlines and 2 doubled cells." in text
    assert "<b>" in text


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("foreground.geojson", DEEP),
        ("foreground.geojson", '{"features": [{"properties": {}}]}'),
        ("foreground.geojson", '{"features": [{"properties": {"classification": {"name": "F"}}, '
         '"geometry": {"type": "Polygon", "coordinates": [[["x"]]]}}]}'),
        ("gallery/gallery.json", DEEP),
        ("gallery/gallery.json", '{"schema_version": 1, "cells": [{"files": "x"}]}'),
        ("spike/spike.json", DEEP),
        ("spike/spike.json", '{"schema_version": 1, "results": [{"kind": 1}]}'),
        ("thumbnail.png", "no"),
        ("overlay.png", "no"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_damaged_file_of_a_run_is_named_in_one_line(file, text, folder, tmp_path):
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=file.split("/")[-1]) as refusal:
        write_report(folder, tmp_path / "r.html")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "r.html").exists()


@given(st.integers(0, 10**9), st.integers(1, 400))
def test_a_density_map_counts_every_object_once(seed, n):
    rng = np.random.default_rng(seed)
    width, height, side, mpp = *rng.integers(50, 3000, 2).tolist(), float(rng.uniform(20, 900)), 0.4
    middles = rng.uniform(0, [width, height], (n, 2))
    density = _per_mm2(middles, width, height, side, mpp)
    whole = side * np.arange(1, 1 + np.array(density.shape[::-1]).max())
    wide, high = (np.diff(np.minimum(np.r_[0, whole[:k]], length)) for k, length in
                  zip(density.shape[::-1], (width, height), strict=True))  # fmt: skip
    area = np.maximum(high[:, None] * wide, 0.25 * side**2) * mpp**2 / 1e6
    assert (density * area).sum() == pytest.approx(n)


def test_a_summary_of_another_slide_is_refused(run_folder, folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, slide=run["slide"] | {"id": "other"})
    _, summary = write_features(folder, tmp_path)
    with pytest.raises(DataError, match=r"about slide 'other', not 'crowded'"):
        write_report(run_folder, tmp_path / "r.html", summaries=[summary])
    change_run(folder, slide=run["slide"], model=run["model"] | {"name": "m"})
    _, summary = write_features(folder, tmp_path)
    with pytest.raises(DataError, match=r"about model 'm', and .* has runs of darkness"):
        write_report(run_folder, tmp_path / "r.html", summaries=[summary])


def test_a_report_shows_every_model_of_a_slide(slide_folder, tmp_path):
    text = write_report(slide_folder, tmp_path / "r.html").read_text()
    page = Page(text)
    assert len(page.links) == 2 * 2  # map and picture
    assert page.tags.count("h3") // 4 == 2
    head = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', text)
    assert head[:3] == ["measure", "darkness", "other"]
    alone = write_report(slide_folder / "other", tmp_path / "one.html").read_text()
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', alone)[:2] == ["measure", "value"]
    assert len(Page(alone).links) == 2


def test_a_report_takes_the_focus_from_the_tables_in_the_run_folder(slide_folder, tmp_path):
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"slide": "crowded", "focus": {"score": 0.8125, "fields": 3}}))
    write_features(slide_folder / "darkness", qc=info)
    text = write_report(slide_folder, tmp_path / "r.html").read_text()
    assert re.findall(r'data-name="focus_score">([^<]*)<', text) == ["0.812", "–"]
    change_run(slide_folder / "darkness", seconds=2.5)  # a newer run: its tables are old
    assert (
        'data-name="focus_score"' not in write_report(slide_folder, tmp_path / "r.html").read_text()
    )


@pytest.mark.slow
def test_a_report_fits_a_telephone_and_two_sheets(slide_folder, slide_path, browser, tmp_path):
    with open_slide(slide_path) as slide:
        one = write_report(slide_folder / "other", tmp_path / "one.html", slide=slide)
        two = write_report(slide_folder, tmp_path / "two.html", slide=slide)
    for path in (one, two):
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        plain, outlined = (page.locator(f"img.{kind}").first for kind in ("plain", "outlined"))
        assert plain.is_visible() and not outlined.is_visible()
        page.get_by_label("show outlines").first.check()
        assert outlined.is_visible() and not plain.is_visible()
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page = browser.new_page()
    page.goto(one.as_uri())
    sheets = re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))
    assert len(sheets) <= 2


def test_the_commands_work_together(slide_path, run_folder, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(cli, [str(a) for a in arguments])

    info = tmp_path / "info.json"
    shown = call("info", slide_path, "--json")
    assert shown.exit_code == 0, shown.output
    info.write_text(shown.stdout)
    focus = json.loads(shown.stdout)["focus"]
    assert call("features", run_folder, "--out", tmp_path, "--qc", info).exit_code == 0
    summary = tmp_path / "crowded.darkness.summary.json"
    row = json.loads(summary.read_text())
    assert [row[f"focus_{k}"] for k in ("score", "blurred_share", "fields")] == [
        focus["score"], focus["blurred_share"], focus["fields"]
    ]  # fmt: skip
    page = tmp_path / "report.html"
    assert call("report", run_folder, "--out", page, "--summary", summary).exit_code == 0
    assert cell_text("focus_score", row["focus_score"]) in page.read_text()
    assert call("cohort", tmp_path).output.endswith("1 slide, 0 failed\n")
    assert gather([tmp_path]) == [row]
    assert call("features", tmp_path).exit_code == 2
    (tmp_path / "none").mkdir()
    refused = call("cohort", tmp_path / "none")
    assert refused.exit_code == 2
    assert "has no slide" in refused.output
