"""Laws of which cells count: each fault is found alone, and a cell counts once at most."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from run_folders import change_run, put_objects

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.reports import cell_check
from wsi_pipeline.reports.cell_check import FAULT_COLUMNS, check_cells, is_straight
from wsi_pipeline.reports.measured import measured
from wsi_pipeline.reports.slide_summary import summarise
from wsi_pipeline.segmentation.cell_features import cell_features

MPP = 0.5


def cells(*faults, score=None):
    """A row of round cells, each with its nucleus; fault of each: "", bare, cut or double."""
    shapes, kind, parent = [], [], []
    for i, fault in enumerate(faults):
        disc = shapely.Point(300 + 200 * i, 300).buffer(60)
        if fault == "double":  # the same as the cell before
            disc = shapely.Point(301 + 200 * (i - 1), 300).buffer(60)
        if fault == "cut":
            x0, y0, x1, y1 = disc.bounds
            disc = disc & shapely.box(x0, y0, x1 - 30, y1)
        parent += [-1] if fault in ("bare", "double") else [-1, len(shapes)]
        shapes.append(disc)
        kind.append(0)
        if parent[-1] >= 0:
            shapes.append(shapely.Point(disc.centroid).buffer(15))
            kind.append(1)
    n = len(shapes)
    objects = Objects.from_polygons(
        shapes, classes=("cell", "nucleus"), class_index=np.array(kind, np.uint8),
        ids=np.stack([np.arange(n), np.arange(n)], 1).astype(np.uint64), parent=np.array(parent),
        score=np.linspace(0.9, 0.5, n).astype(np.float32),
    )  # fmt: skip
    return cell_features(objects, MPP)


@pytest.fixture
def run_of(folder):
    """A run with given cells."""
    run = json.loads((folder / "run.json").read_text("utf-8"))
    change_run(folder, model=run["model"] | {"classes": ["cell", "nucleus"]})

    def make(*faults):
        put_objects(folder, cells(*faults))
        return folder

    return make


@pytest.mark.parametrize(
    ("fault", "column"),
    [("bare", "cells_without_nucleus"), ("cut", "cut_cells"), ("double", "doubled_cells")],
)
def test_each_fault_is_counted_and_its_cells_are_not(run_of, fault, column):
    good, bad = (summarise(run_of(*f)) for f in (("", "", "", ""), ("", "", fault, "")))
    assert [good[name] for name in FAULT_COLUMNS] == [0, 0, 0, None]
    assert {name: bad[name] for name in FAULT_COLUMNS if bad[name]} == {column: 1}
    assert bad["cells"] == 4
    assert bad["adequacy_count"] == 3
    assert bad["cells_with_nucleus"] == 3
    assert bad["cells_per_mm2"] == pytest.approx(good["cells_per_mm2"] * 3 / 4, rel=1e-4)
    assert len(measured(run_of("", "", fault, ""))["nc_ratio"]) == 3


def test_a_cell_with_several_faults_counts_once(run_of):
    check = check_cells(run_of("", "bare", "cut", "double", "", "cut"))
    faults = np.stack([check.doubled, check.without_nucleus, check.cut])
    assert faults.sum(0).max() == 1
    assert check.faulty.sum() == faults.sum() == 4


def test_strips_do_not_show(run_of, monkeypatch):
    folder = run_of("", "double", "", "bare", "cut", "", "double")
    whole = check_cells(folder)
    monkeypatch.setattr(cell_check, "STRIP", 2)
    cell_check._checked.cache_clear()
    parts = check_cells(folder)
    for fault in ("doubled", "without_nucleus", "cut"):
        np.testing.assert_array_equal(getattr(whole, fault), getattr(parts, fault))


class Painted:
    """A slide of glass with a stained cell on the left half."""

    width, height, background = 1400, 600, (240, 240, 240)

    def __init__(self, ink):
        self.image = np.full((600, 1400, 3), 240, np.uint8)
        self.image[:, :700] = ink

    def read_what_is_there(self, box, scale):
        assert scale == 1
        return self.image[box.y0 : box.y1, box.x0 : box.x1], None


@pytest.mark.parametrize(("ink", "ghosts"), [(150, 2), (240, 4)])
def test_cells_on_glass_are_found_in_pixels_alone(run_of, folder, ink, ghosts):
    run_of("", "", "cut", "", "")
    run = json.loads((folder / "run.json").read_text("utf-8"))
    change_run(folder, model=run["model"] | {"mpp": run["slide"]["mpp"]["x"]})
    slide = Painted(ink)
    # A dark nucleus is no stain of the cell.
    slide.image[280:320, 1090:1110] = 60
    check = check_cells(folder, slide)
    assert check.on_glass.sum() == ghosts
    assert not (check.on_glass & check.cut).any()  # each cell has one fault
    row = summarise(folder, slide=slide)
    assert row["cells_on_glass"] == ghosts
    assert row["adequacy_count"] == row["cells_with_nucleus"] == 4 - ghosts


def test_a_run_that_changed_is_checked_again(run_of):
    assert summarise(run_of("", "bare"))["cells_without_nucleus"] == 1
    assert summarise(run_of("", "bare", "bare", ""))["cells_without_nucleus"] == 2


def test_without_nuclei_in_the_model_cells_count(folder, run_of):
    run_of("", "bare")
    run = json.loads((folder / "run.json").read_text("utf-8"))
    change_run(folder, model=run["model"] | {"classes": ["cell"]})
    row = summarise(folder)
    assert (row["cells"], row["cells_without_nucleus"], row["adequacy_count"]) == (2, 0, 2)


def test_a_run_of_nuclei_has_no_faults_of_cells(run_folder):
    row = summarise(run_folder)
    assert [row[name] for name in FAULT_COLUMNS] == [None] * 4


def test_the_border_of_the_slide_cuts_no_outline():
    half = shapely.Point(0, 300).buffer(60) & shapely.box(0, 0, 999, 999)
    objects = Objects.from_polygons(
        [half, shapely.transform(half, lambda xy: xy + np.array([5, 0]))], classes=("cell",),
        ids=np.zeros((2, 2), np.uint64), class_index=np.zeros(2, np.uint8),
        score=np.ones(2, np.float32),
    )  # fmt: skip
    assert is_straight(objects, MPP, (1000, 1000)).tolist() == [False, True]
