"""Laws of the look "real": every kind appears, and the truth names nuclei and nothing else."""

from __future__ import annotations

import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
import shapely
from wsiseg_models.training.coco import Split
from wsiseg_models.training.instance_data import load_instance_set
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.synthetic.cell_painter import OD_STEPS
from wsi_pipeline.synthetic.fields import write_fields
from wsi_pipeline.synthetic.looks import LOOKS, Scene
from wsi_pipeline.synthetic.placement import plan_slide
from wsi_pipeline.synthetic.real_kinds import LEUKOCYTES, REAL_DEBRIS, REAL_KINDS
from wsi_pipeline.synthetic.render import (
    render,
    truth_kinds,
    truth_leukocytes,
    truth_objects,
)
from wsi_pipeline.synthetic.sprites import Bank
from wsi_pipeline.synthetic.stains import MEASURED, draw_real_style

pytestmark = pytest.mark.slow  # a third of a minute in all

REAL = LOOKS["real"]
MPP = 0.5
SIDE = 700


@pytest.fixture(scope="module")
def style():
    """Stain of a liquid-based slide: nuclei have the sizes of their kinds."""
    rng = np.random.default_rng(4)
    return next(
        s for s in (draw_real_style(rng) for _ in range(50)) if s.swell == 1 and not s.monochrome
    )


@pytest.fixture(scope="module")
def bank(style):
    return Bank.paint(MPP, style, count=192, seed=1, look=REAL)


def real_plan(style, bank, kind=None, **scene):
    own = Scene({"specks": 0.01} | scene.pop("litter", {}), **scene)
    mix = None if kind is None else {kind: 1.0}
    return plan_slide(
        SIDE, SIDE, mpp=MPP, seed=3, tissue=1, mix=mix, style=style, bank=bank, scene=own
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("real")
    write_fields(path, count=6, size_px=256, mpp=(0.4, 0.5), seed=2, per_bank=2, look="real")
    return path


def test_the_same_seed_gives_the_same_fields_and_more_of_them(folder, tmp_path):
    write_fields(tmp_path, count=3, size_px=256, mpp=(0.4, 0.5), seed=2, per_bank=2, look="real")
    for i in range(3):
        name = f"images/field_{i:04d}.png"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    some, all_ = (
        json.loads((f / "annotations.json").read_text())["annotations"] for f in (tmp_path, folder)
    )
    assert some == all_[: len(some)]


def test_plain_fields_are_those_of_earlier_versions(tmp_path):
    """Numbers of version 0.1, with a tolerance for other processors and libraries."""
    write_fields(tmp_path, count=2, size_px=128, mpp=(0.3, 0.6), seed=9, per_bank=1)
    document = json.loads((tmp_path / "annotations.json").read_text())
    assert [c["name"] for c in document["categories"]] == ["nucleus", "cytoplasm"]
    assert [image["mpp"] for image in document["images"]] == [0.5222, 0.5803]
    assert [a["category_id"] for a in document["annotations"]].count(1) == 6
    assert sum(a["area"] for a in document["annotations"]) == pytest.approx(16660.37, rel=1e-5)
    for i, mean in enumerate([[197.993, 200.134, 191.990], [242.394, 237.994, 230.585]]):
        pixels = cv2.imread(str(tmp_path / f"images/field_{i:04d}.png"))
        assert pixels.mean((0, 1)) == pytest.approx(mean, abs=0.05)


@pytest.mark.parametrize("kind", REAL_KINDS)
def test_each_kind_of_cell_has_its_nuclei_in_the_truth(style, bank, kind):
    plan = real_plan(style, bank, kind)
    nuclei, cells = truth_objects(plan)
    assert len(nuclei) >= len(cells) > 5
    um2 = shapely.area(nuclei.polygons()) * MPP**2
    low, high = REAL_KINDS[kind].nucleus_um2
    assert low * 0.98 <= um2.min() and um2.max() <= high * 1.02
    grown = shapely.buffer(shapely.make_valid(cells.polygons()), 0.05)
    assert shapely.covers(grown[plan.nucleus_cell], nuclei.polygons()).all()


def test_pale_abnormal_nuclei_are_large_and_pale():
    normal, pale = REAL_KINDS["intermediate"], REAL_KINDS["pale_lsil"]
    middle = sum(normal.nucleus_um2) / 2
    assert pale.nucleus_um2[0] / middle > 2.5 and 5 < pale.nucleus_um2[1] / middle < 6
    assert pale.chromatin[1] <= normal.chromatin[0]


@pytest.mark.parametrize("name", REAL_DEBRIS)
def test_of_debris_only_leukocytes_are_in_the_truth(style, bank, name):
    with_it = real_plan(style, bank, litter={name: 2.0})
    kind = len(REAL_KINDS) + list(REAL_DEBRIS).index(name)
    pieces = int((with_it.bank.kind[with_it.sprite] == kind).sum())
    assert pieces > 5
    for i in np.flatnonzero(bank.kind == kind):  # it can be seen
        painted = bank.pixels[bank.start[i] : bank.start[i] + bank.shape[i].prod() * 3]
        assert painted.max() > 0.02 * OD_STEPS
    assert len(truth_leukocytes(with_it)) == (pieces if name in LEUKOCYTES else 0)
    nuclei, cells = truth_objects(with_it)
    assert len(nuclei) >= len(cells) == len(with_it.cells)


@pytest.mark.parametrize("name", LEUKOCYTES)
def test_leukocytes_are_small_and_dark_where_the_truth_says(style, bank, name):
    plan = real_plan(style, bank, litter={name: 6.0}, leukocyte_crowds=0.8)
    shapes = truth_leukocytes(plan).polygons()
    assert len(shapes) > 100 and shapely.is_valid(shapes).all()
    um2 = shapely.area(shapes) * MPP**2
    assert 8 < np.median(um2) < 40
    pixels = render(plan, Box(0, 0, SIDE, SIDE)).mean(2)
    darker = []
    for shape in shapes[:: max(1, len(shapes) // 100)]:
        inner, outer = shape.buffer(-0.7), shape.buffer(8).difference(shape.buffer(4))
        if inner.area > 6:
            darker.append(_mean(pixels, inner) < _mean(pixels, outer))
    assert np.mean(darker) > 0.9


def _mean(pixels, shape):
    fy, fx = np.mgrid[:SIDE, :SIDE]
    x0, y0, x1, y1 = np.clip(np.add(shape.bounds, [-1, -1, 2, 2]), 0, SIDE).astype(int)
    inside = shapely.contains_xy(shape, fx[y0:y1, x0:x1] + 0.5, fy[y0:y1, x0:x1] + 0.5)
    return pixels[y0:y1, x0:x1][inside].mean() if inside.any() else np.nan


def test_nuclei_of_dense_groups_overlap(style, bank):
    def pairs(groups):
        nuclei = truth_objects(real_plan(style, bank, groups=groups))[0].polygons()
        one, two = shapely.STRtree(nuclei).query(nuclei, predicate="intersects")
        one, two = one[one < two], two[one < two]
        area = shapely.area(nuclei)
        shared = shapely.area(shapely.intersection(nuclei[one], nuclei[two]))
        return int((shared > 0.1 * np.minimum(area[one], area[two])).sum())

    assert pairs(0.8) > 20 + 3 * pairs(0.0)


def test_streaks_lie_across_the_direction(style, bank):
    """Cells crowd in stripes: their number varies more across the smear than along it."""
    plan = real_plan(style, bank, streaks=0.8, direction=0.0)
    uneven = []
    for at in (plan.y, plan.x):
        counts = np.histogram(at, bins=14, range=(0, SIDE - 100))[0]
        uneven.append(counts.std() / counts.mean())
    assert uneven[0] > uneven[1]


def test_a_window_of_a_real_slide_shows_what_the_whole_shows():
    plan = plan_slide(900, 700, mpp=0.5, seed=6, tissue=0.8, look="real")
    whole = render(plan, Box(0, 0, 900, 700))
    rows = pairwise((0, 77, 512, 700))
    for (x0, x1), (y0, y1) in zip(pairwise((0, 333, 511, 900)), rows, strict=True):
        assert np.array_equal(render(plan, Box(x0, y0, x1, y1)), whole[y0:y1, x0:x1])
    again = plan_slide(900, 700, mpp=0.5, seed=6, tissue=0.8, look="real")
    assert np.array_equal(render(again, Box(0, 0, 900, 700)), whole)


def test_training_reads_nuclei_cells_and_leukocytes(folder):
    document = json.loads((folder / "annotations.json").read_text())
    assert [c["name"] for c in document["categories"]] == [
        "nucleus", "cytoplasm", "leukocyte_nucleus",
    ]  # fmt: skip
    number = [sum(a["category_id"] == k for a in document["annotations"]) for k in (1, 2, 3)]
    assert min(number) > 10
    train, held = load_set(str(folder), mpp=0.45, split=Split("none"))
    assert (len(train), len(held)) == (6, 0)
    assert sum(len(sample.classes) - 1 for sample in train) == number[0]
    assert any((sample.labels == -1).any() for sample in train)
    asked = ["nucleus", "leukocyte_nucleus"]
    both, _ = load_set(str(folder), mpp=0.45, split=Split("none"), categories=asked)
    assert sum((sample.classes == 2).sum() for sample in both) == number[2]
    cells = load_instance_set(str(folder), mpp=0.45, split=Split("none"))
    assert cells.skipped["leukocyte_nucleus"] == number[2]


def test_the_truth_names_the_kind_of_each_nucleus(style, bank):
    plan = plan_slide(
        SIDE, SIDE, mpp=MPP, seed=3, tissue=1.0, density=60, style=style, bank=bank,
        scene=Scene({"neutrophil": 1.0}), mix={"superficial": 1.0, "lsil": 1.0},
    )  # fmt: skip
    kinds, leukocytes = truth_kinds(plan)
    nuclei, cells = truth_objects(plan)
    assert len(kinds) == len(cells) and set(kinds) == {"superficial", "lsil"}
    assert len(leukocytes) == len(truth_leukocytes(plan)) and set(leukocytes) <= set(LEUKOCYTES)
    um2 = shapely.area(nuclei.polygons()) * MPP**2
    large = np.array(kinds)[plan.nucleus_cell] == "lsil"
    assert um2[~large].max() < 60 < um2[large].min()


def test_nucleus_and_cell_have_the_same_kind(folder):
    annotations = json.loads((folder / "annotations.json").read_text())["annotations"]
    cells = {(a["image_id"], a["cell_id"]): a["kind"] for a in annotations if a["category_id"] == 2}
    assert set(cells.values()) <= set(REAL_KINDS)
    for a in annotations:
        if a["category_id"] == 1:
            assert cells.get((a["image_id"], a["cell_id"]), a["kind"]) == a["kind"]
        if a["category_id"] == 3:
            assert a["kind"] in LEUKOCYTES


def test_fields_lie_within_their_border(folder):
    frame = shapely.box(0, 0, 256, 256)
    document = json.loads((folder / "annotations.json").read_text())
    for annotation in document["annotations"]:
        polygon = shapely.Polygon(np.reshape(annotation["segmentation"][0], (-1, 2)))
        assert frame.covers(polygon)
        assert polygon.area == pytest.approx(annotation["area"], rel=0.01, abs=1)


def test_stains_vary_around_the_measured_ones():
    rng = np.random.default_rng(0)
    styles = [draw_real_style(rng) for _ in range(300)]
    assert {s.preparation for s in styles} == {"liquid", "conventional", "air-dried"}
    grey = [s for s in styles if s.monochrome]
    colour = np.array([s.stains[3] * 0.25 for s in styles if not s.monochrome])
    assert 20 < len(grey) < 80
    between = [MEASURED[n].cyanophilic for n in ("rose", "magenta")]
    for channel in (0, 1):
        low, high = sorted(m[channel] for m in between)
        assert low * 0.9 < np.median(colour[:, channel]) < high * 1.1


def test_mixed_fields_are_plain_and_real_in_turn(tmp_path):
    sets = {}
    for look in ("plain", "mixed"):
        write_fields(tmp_path / look, count=2, size_px=96, mpp=0.7, per_bank=1, look=look)
        sets[look] = [cv2.imread(str(p)) for p in sorted((tmp_path / look).glob("images/*"))]
    assert np.array_equal(sets["plain"][0], sets["mixed"][0])
    assert not np.array_equal(sets["plain"][1], sets["mixed"][1])


def test_an_unknown_look_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown look 'old'; use plain, real, mixed"):
        write_fields(tmp_path, count=1, look="old")
    with pytest.raises(ConfigError, match="unknown look 'old'; use plain or real"):
        plan_slide(300, 300, mpp=0.5, look="old")
