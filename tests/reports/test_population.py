"""Laws of `wsiseg population`: every object is drawn once, and a gate holds what lies in it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from families import families
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.formats.parquet_rows import read_boxes
from wsi_pipeline.reports.plot import _binned, plot
from wsi_pipeline.reports.population import Gate, measurement, parse_gate, population
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO, cell_features
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA

AREA, OD = "Nucleus: Area µm^2", "Nucleus: OD mean"


@given(st.integers(0, 10**9), st.integers(1, 900))
def test_every_object_is_drawn_once(seed, n):
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 300, (n, 2))
    middles, counts = _binned(place)
    assert counts.sum() == n
    nearest = np.sqrt(((place[:, None] - middles) ** 2).sum(2)).min(1)
    assert nearest.max() <= 5.001, "each lies in a hexagon that is drawn"
    drawn = plot(place[:, 0], place[:, 1], ("a", "b"))
    assert drawn.count == n
    shapes = sum(len(mark.polygons) for mark in drawn.marks)
    assert shapes == n if n <= 600 else shapes <= n


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_a_cell_has_the_value_of_its_largest_nucleus(seed):
    objects = cell_features(families(seed), 0.5)
    found = population(objects, (NUCLEUS_AREA, NUCLEUS_RATIO))
    area, ratio = objects.features[NUCLEUS_AREA], objects.features[NUCLEUS_RATIO]
    expected = {
        int(cell): (area[objects.parent == cell].max(), ratio[cell])
        for cell in np.unique(objects.parent[objects.parent >= 0])
    }
    assert {
        int(r): (x, y) for r, x, y in zip(found.rows, found.x, found.y, strict=True)
    } == expected
    faulty = np.zeros(len(objects), bool)
    faulty[found.rows[::2]] = True
    counted = population(objects, (NUCLEUS_AREA, NUCLEUS_RATIO), faulty)
    assert counted.rows.tolist() == found.rows[1::2].tolist()
    alone = population(replace(objects, parent=None), (NUCLEUS_AREA, NUCLEUS_RATIO))
    assert len(alone.rows) == 0


def test_two_measurements_of_nuclei_are_those_of_each_nucleus(run_folder):
    objects = read_boxes(run_folder / "objects.parquet")
    found = population(objects, (AREA, OD))
    assert found.rows.tolist() == np.flatnonzero(np.isfinite(objects.features[OD])).tolist()
    gate = Gate(np.array([(40, 0), (90, 0), (65, 3)], float))
    inside = found.inside(gate)
    assert 0 < len(inside) < len(found.rows)
    for x, y in zip(objects.features[AREA][inside], objects.features[OD][inside], strict=True):
        assert y / 3 * 25 <= min(x - 40, 90 - x) + 1e-3


def test_names_are_given_by_their_words():
    names = [AREA, OD, "Cell: Area µm^2", NUCLEUS_RATIO]
    for text, name in (("area nucleus", AREA), ("OD mean", OD), ("n/c", NUCLEUS_RATIO),
                       ("Cell: Area um^2", names[2]), (AREA, AREA)):  # fmt: skip
        assert measurement(text, names) == name
    for text in ("area", "", "volume"):
        with pytest.raises(UsageError, match=r"give one of: .*Nucleus: Area"):
            measurement(text, names)


@pytest.mark.parametrize(
    ("text", "error"),
    [("1,2,3", UsageError), ("1,2,1,3", UsageError), ("no.json", UsageError),
     ("1,2,3,nan", UsageError)],
)  # fmt: skip
def test_a_gate_without_area_is_refused(text, error):
    with pytest.raises(error, match=re.escape(text)):
        parse_gate(text)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "[[0, 0], [1, 1]]", "[[0, 0], [1, 1], [1, 0], [0, 1]]", '{"polygon": "x"}',
     '{"x": 3, "polygon": [[0, 0], [1, 0], [1, 1]]}', "[[0, 0], [1e999, 0], [1, 1]]", "no",
     "[" * 100_000],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_file_without_a_gate_is_refused(content, tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"gate.json holds no gate"):
        parse_gate(str(path))


def test_the_command_writes_plot_objects_and_pictures(run_folder, slide_path, tmp_path):
    gate = {"x": "nucleus area", "y": "od mean", "polygon": [[50, 0], [500, 0], [500, 9], [50, 9]]}
    (tmp_path / "gate.json").write_text(json.dumps(gate))

    def call(*arguments):
        given = [run_folder, "--gate", tmp_path / "gate.json", *arguments]
        return CliRunner().invoke(cli, ["population", *map(str, given)])

    outs = [tmp_path / name for name in ("p.svg", "p.png", "g.geojson", "cells")]
    done = call(*(part for out in outs for part in ("--out", out)), "--image", slide_path,
                "--count", 3)  # fmt: skip
    assert done.exit_code == 0, done.output
    objects = read_parquet(run_folder / "objects.parquet")
    inside = objects.take(objects.features[AREA] >= 50)
    assert f"inside the gate: {len(inside)} " in done.output
    assert (read_geojson(outs[2]).ids == inside.ids).all()
    cells = json.loads((outs[3] / "gallery.json").read_text())["cells"]
    assert len(cells) == 3
    assert all(cell["measurements"][AREA] >= 50 for cell in cells)
    assert ET.parse(outs[0]).getroot().tag.endswith("svg")
    assert cv2.imread(str(outs[1])).shape == (362 * 3, 494 * 3, 3)
    for bad, said in (
        (("--out", tmp_path / "x"), "--image"),
        (("--x", "length"), "the gate is for"),
        (("--out", tmp_path / "x.svg", "--y", "color"), "give one of"),
    ):
        refused = call(*bad)
        assert refused.exit_code == 2 and said in refused.output
