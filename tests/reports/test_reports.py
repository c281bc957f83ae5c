"""Laws of features, report, cohort and focus."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import random
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import cv2
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import shapely
from click.testing import CliRunner

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import CELL_CLASS, Objects
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.reports.cohort import SCHEMA, gather, write_cohort
from wsi_pipeline.reports.slide_report import write_report
from wsi_pipeline.reports.slide_summary import (
    COLUMNS,
    LARGE_NUCLEUS_UM2,
    failed_row,
    summarise,
    write_features,
)
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO, cell_features
from wsi_pipeline.segmentation.morphometry import morphometry
from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.focus import BLURRED, measure_focus, sharpness
from wsi_pipeline.slides.slide import open_slide


@pytest.fixture(scope="module")
def run_folder(slide_path, darkness, tmp_path_factory):
    config = RunConfig(out=tmp_path_factory.mktemp("runs"), quiet=True)
    return run_slide(slide_path, config, model=darkness).folder


@pytest.fixture
def folder(run_folder, tmp_path):
    """A copy of a real run folder, to be changed."""
    return shutil.copytree(run_folder, tmp_path / "runs" / run_folder.name)


def change_run(folder, **entries):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def put_objects(folder, objects):
    with ParquetWriter(folder / "objects.parquet") as writer:
        writer.write(objects)


def squares(areas_px, *, step=1000, classes=("nucleus",)):
    side = np.sqrt(np.asarray(areas_px, float))
    x = np.arange(len(side)) * step
    n = len(side)
    return Objects.from_polygons(
        shapely.box(x, 0, x + side, side),
        classes=classes,
        ids=np.stack([np.zeros(n), np.arange(n)], 1).astype(np.uint64),
        class_index=np.zeros(n, np.uint8),
        score=np.ones(n, np.float32),
    )


def nuclei(areas_px, mpp=0.5):
    objects = squares(areas_px)
    return replace(objects, features=morphometry(objects, mpp))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))


class Page(HTMLParser):
    """Checks that elements nest, and keeps what they refer to."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_object_table_is_the_run_s_objects(run_folder, tmp_path):
    table, _ = write_features(run_folder, tmp_path)
    objects, rows = read_parquet(run_folder / "objects.parquet"), rows_of(table)
    assert len(rows) == len(objects) > 50
    middle = shapely.centroid(objects.polygons())
    for axis, of in (("x", shapely.get_x), ("y", shapely.get_y)):
        stored = [float(row[f"centroid_{axis}_um"]) for row in rows]
        np.testing.assert_allclose(stored, of(middle) * 0.5, atol=6e-4)
    for name, column in objects.features.items():
        stored = [float(row[name] or "nan") for row in rows]
        np.testing.assert_array_equal(np.float32(stored), column)
    assert len({row["id"] for row in rows}) == len(rows)


def test_features_are_the_same_bytes_each_time(run_folder, tmp_path):
    files = [write_features(run_folder, tmp_path / name) for name in "ab"]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.name == other.name


def test_a_table_without_objects_keeps_its_columns(folder, tmp_path):
    full = write_features(folder, tmp_path / "full")[0]
    put_objects(folder, read_parquet(folder / "objects.parquet").take(np.zeros(0, np.int64)))
    change_run(folder, objects=0)
    table, summary = write_features(folder, tmp_path / "none")
    head = gzip.decompress(full.read_bytes()).splitlines()[0]
    assert gzip.decompress(table.read_bytes()).splitlines() == [head]
    row = json.loads(summary.read_text())
    assert row["nuclei"] == 0
    assert row["nucleus_area_um2_median"] is row["large_nuclei_share"] is None


def test_the_row_says_what_the_objects_do(run_folder):
    row, objects = summarise(run_folder), read_parquet(run_folder / "objects.parquet")
    areas = objects.features["Nucleus: Area µm^2"].astype(float)
    assert list(row) == list(COLUMNS)
    assert row["status"] == "done"
    assert row["nuclei"] == row["objects"] == len(objects)
    assert row["nuclei_per_mm2"] * row["foreground_area_mm2"] == pytest.approx(len(objects), 1e-4)
    assert row["slide_area_mm2"] == pytest.approx(1403 * 1211 * 0.25e-6, 1e-5)
    for share, name in ((10, "p10"), (50, "median"), (90, "p90")):
        found = row[f"nucleus_area_um2_{name}"]
        assert found == pytest.approx(np.percentile(areas, share), 1e-5)
    assert row["large_nuclei"] == int((areas >= LARGE_NUCLEUS_UM2).sum())


def test_a_nucleus_is_large_from_two_and_a_half_normal_ones_on(folder):
    put_objects(folder, nuclei([4 * 87.4, 4 * 87.6, 4 * 35, 4 * 300]))
    row = summarise(folder)
    assert (row["large_nuclei"], row["large_nuclei_share"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("count", "preparation", "failed", "expected"),
    [
        (4999, "liquid", [], "too few"),
        (5000, "liquid", [], "enough"),
        (7999, "conventional", [], "too few"),
        (8000, "conventional", [], "enough"),
        (4999, "liquid", [{"region": 1, "level0_box": [0, 0, 1, 1], "cause": "c"}], "undecided"),
        (5000, "liquid", [{"region": 1, "level0_box": [0, 0, 1, 1], "cause": "c"}], "enough"),
    ],
)
def test_adequacy_is_bethesda_s(folder, count, preparation, failed, expected):
    put_objects(folder, nuclei(np.full(count, 200)))
    change_run(folder, objects=count, failed_regions=failed)
    row = summarise(folder, preparation=preparation)
    assert row["adequacy"] == expected
    assert row["adequacy_by"] == "nuclei, one per cell"
    assert row["adequacy_count"] == count


def test_cells_are_counted_where_cells_were_found(folder):
    objects = replace(
        squares([40_000, 400, 10_000, 90_000], step=0, classes=(CELL_CLASS, "nucleus")),
        class_index=np.array([0, 1, 0, 0], np.uint8),
        parent=np.array([-1, 0, -1, -1]),
    )
    put_objects(folder, cell_features(objects, 0.5))
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, model=run["model"] | {"classes": [CELL_CLASS, "nucleus"]})
    row = summarise(folder)
    assert (row["nuclei"], row["cells"], row["cells_with_nucleus"]) == (1, 3, 1)
    assert row["nc_ratio_median"] == pytest.approx(0.01)
    assert row["cell_area_um2_median"] == pytest.approx(10_000)
    assert (row["adequacy_by"], row["adequacy_count"]) == ("cells", 3)
    assert NUCLEUS_RATIO in read_parquet(folder / "objects.parquet").features


def test_failed_regions_are_in_the_row(folder):
    causes = ["x", "y", "x"]
    failed = [{"region": i, "level0_box": [0] * 4, "cause": c} for i, c in enumerate(causes)]
    change_run(folder, failed_regions=failed)
    row = summarise(folder)
    found = [row[k] for k in ("status", "cause", "failed_regions", "failed_causes")]
    assert found == ["incomplete", "x", 3, "x | y"]


def test_a_cohort_has_a_row_for_every_slide(run_folder, folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, slide=run["slide"] | {"id": "other"})
    failed = tmp_path / "bad.failed.json"
    failed.write_text('{"slide": "bad.svs", "status": "failed", "cause": "=1+1 ends too early"}')
    unfinished = tmp_path / "unfinished" / "dssnet"
    unfinished.mkdir(parents=True)
    (unfinished / "plan.json").write_text("{}")
    _, summary = write_features(folder, tmp_path / "features")
    sources = [run_folder, summary, failed, unfinished]
    rows = write_cohort(tmp_path / "a", sources)
    random.Random(1).shuffle(sources)
    assert write_cohort(tmp_path / "b", sources) == rows
    for name in ("cohort.parquet", "cohort.csv", "cohort.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [r["slide"] for r in rows] == ["bad.svs", "crowded", "other", "unfinished"]
    assert [r["status"] for r in rows] == ["failed", "done", "done", "failed"]
    assert rows[0] == failed_row("bad.svs", "=1+1 ends too early")
    table = pq.read_table(tmp_path / "a" / "cohort.parquet")
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == rows
    flat = pyarrow.csv.read_csv(tmp_path / "a" / "cohort.csv")
    assert flat.column_names == list(COLUMNS)
    assert flat["nuclei"].to_pylist() == table["nuclei"].to_pylist()
    assert flat["cause"][0].as_py() == "'=1+1 ends too early"
    page = Page((tmp_path / "a" / "cohort.html").read_text())
    assert page.tags.count("tr") == (1 + 2) + (1 + 2)  # failures and slides, each with a head
    assert page.links == []


def test_the_cohort_s_page_leads_to_reports_beside_it_and_nowhere_else(tmp_path):
    (tmp_path / "reports").mkdir()
    ids = ["a b#?&<i>", "without", "../outside"]
    for number, slide in enumerate(ids):
        row = {"slide": slide, "status": "done"}
        (tmp_path / f"{number}.summary.json").write_text(json.dumps(row))
    for name in (ids[0], ids[2]):
        (tmp_path / "reports" / f"{name}.html").touch()
    write_cohort(tmp_path)
    page = Page((tmp_path / "cohort.html").read_text())
    assert [unquote(link) for link in page.links] == [f"reports/{ids[0]}.html"]
    assert not {"?", "#", "<"} & set(page.links[0])


def test_what_was_not_looked_for_is_unknown_and_not_none(folder):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, model=run["model"] | {"classes": [CELL_CLASS]})
    row = summarise(folder)
    assert (row["nuclei"], row["large_nuclei"], row["cells"]) == (None, None, 0)
    change_run(folder, model=run["model"])
    row = summarise(folder)
    assert row["nuclei"] > 0
    assert (row["cells"], row["cells_per_mm2"], row["cells_with_nucleus"]) == (None, None, None)


def test_dtypes_do_not_depend_on_the_rows(tmp_path):
    failed = tmp_path / "x.failed.json"
    failed.write_text('{"slide": "x", "status": "failed", "cause": "c"}')
    write_cohort(tmp_path, [failed])
    assert pq.read_table(tmp_path / "cohort.parquet").schema.equals(SCHEMA)


def test_a_summary_counts_only_for_its_own_run(folder):
    info = folder.parent / "info.json"
    info.write_text(json.dumps({"slide": "crowded", "focus": {"score": 0.9, "fields": 3}}))
    write_features(folder, qc=info)
    assert gather([folder.parent])[0]["focus_score"] == 0.9
    change_run(folder, seconds=1.5)
    row = gather([folder])[0]
    assert (row["focus_score"], row["seconds"]) == (None, 1.5)


def test_nothing_is_counted_twice_or_made_up(run_folder, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"empty holds no slide.*wsiseg run"):
        write_cohort(empty)
    with pytest.raises(UsageError, match=r"both slide 'crowded'"):
        gather([run_folder, folder])
    assert gather([folder, folder.parent]) == gather([folder])
    for text, said in (
        ("[]", "names no slide"),
        ('{"slide": "x", "status": "lost"}', "none of done"),
        ('{"slide": "x", "status": "done", "nuclei": "7"}', "nuclei '7' is no count"),
        ('{"slide": "x", "status": "done", "nucleii": 7}', "unknown entry 'nucleii'"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=said):
            gather([tmp_path / "bad.json"])


def test_the_report_is_one_page_by_itself(folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    failed = [{"region": 7, "level0_box": [1, 2, 3, 4], "cause": "<script>alert(1)</script>"}]
    change_run(folder, slide=run["slide"] | {"id": "<b>&x"}, failed_regions=failed)
    text = write_report(folder, tmp_path / "r.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "<b>&x" in page.text
    assert page.tags.count("svg") == 1
    (picture,) = page.links
    head, code = picture.split(",")
    assert head == "data:image/jpeg;base64"
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
    drawn = cv2.imread(str(folder / "overlay.png"))
    assert shown.shape == drawn.shape
    assert np.abs(shown.astype(int) - drawn).mean() < 5
    bars = [int(t.split(": ")[1].split("<")[0]) for t in text.split("<title>")[2:]]
    assert sum(bars) == len(read_parquet(folder / "objects.parquet"))
    assert write_report(folder, tmp_path / "again.html").read_text() == text


def test_a_summary_of_another_slide_is_refused(run_folder, folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, slide=run["slide"] | {"id": "other"})
    _, summary = write_features(folder, tmp_path)
    with pytest.raises(DataError, match=r"about slide 'other', not 'crowded'"):
        write_report(run_folder, tmp_path / "r.html", summary=summary)


@pytest.fixture(scope="module")
def pixels(slide_path):
    with open_slide(slide_path) as slide:
        return slide.read_region(slide.bounds)


def focus_of(pixels, path):
    cv2.imwrite(str(path), pixels[..., ::-1])
    with open_slide(path, mpp=0.5) as slide:
        thumbnail, downsample = slide.thumbnail()
        kept = find_foreground(thumbnail, downsample, slide.width, slide.height)
        return measure_focus(slide, kept)


def test_blur_lowers_focus_and_light_does_not(pixels, tmp_path):
    path = tmp_path / "slide.png"
    blurred = [focus_of(cv2.GaussianBlur(pixels, (0, 0), s), path) for s in (0.5, 1, 1.5, 2, 3, 5)]
    sharp = focus_of(pixels, path)
    scores = [focus.score for focus in (sharp, *blurred)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert sharp.fields == 20
    assert sharp.blurred_share == 0
    assert blurred[-1].blurred_share == 1
    assert scores[0] > 0.8 > BLURRED > scores[-1] > 0.25
    for light in (0.6, 0.8, 1.05):
        dimmed = np.clip(np.round(pixels * light), 0, 255).astype(np.uint8)
        assert focus_of(dimmed, path).score == pytest.approx(sharp.score, rel=0.03)


def test_contrast_does_not_count_as_focus(pixels):
    field = pixels[:256, :256]
    density = np.log((field.astype(float) + 1) / 256)
    for strength in (0.5, 0.75):  # a weaker stain
        faint = np.round(np.exp(density * strength) * 256 - 1).astype(np.uint8)
        assert sharpness(faint) == pytest.approx(sharpness(field), rel=0.1)


def test_a_step_is_sharp_and_glass_is_nothing():
    step = np.full((256, 256, 3), 230, np.uint8)
    step[:, 128:] = 60
    assert sharpness(step) == pytest.approx(1, abs=0.05)
    noise = np.random.default_rng(0).normal(230, 2, (256, 256, 3)).round().astype(np.uint8)
    assert sharpness(noise) is None
    assert sharpness(step[:20]) is None


def test_coarse_pixels_have_no_focus(slide_path):
    with open_slide(slide_path, mpp=1.0) as slide:
        kept = find_foreground(*slide.thumbnail(), slide.width, slide.height, mode="all")
        focus = measure_focus(slide, kept)
    assert (focus.score, focus.fields) == (None, 0)
    assert "coarser" in focus.note


def test_the_commands_work_together(slide_path, run_folder, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(cli, [str(a) for a in arguments])

    info = tmp_path / "info.json"
    shown = call("info", slide_path, "--json")
    assert shown.exit_code == 0, shown.output
    info.write_text(shown.stdout)
    focus = json.loads(shown.stdout)["focus"]
    assert call("features", run_folder, "--out", tmp_path, "--qc", info).exit_code == 0
    summary = tmp_path / "crowded.summary.json"
    row = json.loads(summary.read_text())
    assert [row[f"focus_{k}"] for k in ("score", "blurred_share", "fields")] == [
        focus["score"], focus["blurred_share"], focus["fields"]
    ]  # fmt: skip
    page = tmp_path / "report.html"
    assert call("report", run_folder, "--out", page, "--summary", summary).exit_code == 0
    assert f"{focus['score']:.4g}" in page.read_text()
    assert call("cohort", tmp_path).output.endswith("1 slide, 0 failed\n")
    assert gather([tmp_path]) == [row]
    assert call("features", tmp_path).exit_code == 2
    (tmp_path / "none").mkdir()
    refused = call("cohort", tmp_path / "none")
    assert refused.exit_code == 2
    assert "holds no slide" in refused.output
