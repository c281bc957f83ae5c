"""Laws of the synthetic slides: any tiling shows one slide, and its truth is exact."""

from __future__ import annotations

import json
import uuid

import cv2
import numpy as np
import openslide
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.synthetic.cell_kinds import CELL_KINDS
from wsi_pipeline.synthetic.cell_painter import coverage
from wsi_pipeline.synthetic.sprites import Bank
from wsi_pipeline.synthetic.stains import draw_style
from wsi_pipeline.synthetic.svs_writer import (
    plan_slide,
    render,
    truth_objects,
    write_fields,
    write_slide,
)

KINDS = list(CELL_KINDS.values())
WIDTH, HEIGHT = 3000, 2300


@pytest.fixture(scope="module")
def plan():
    return plan_slide(WIDTH, HEIGHT, seed=7, tissue=0.5)


@pytest.fixture(scope="module")
def whole(plan):
    return render(plan, Box(960, 760, 2200, 1800))


@pytest.fixture(scope="module")
def truth(plan):
    return truth_objects(plan)


@pytest.fixture(scope="module")
def slide(plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("synth") / "a.svs"
    calls = []
    write_slide(path, plan, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (9, 9)
    with openslide.OpenSlide(path) as opened:
        yield opened


@given(st.integers(-40, 900), st.integers(-40, 700), st.integers(1, 300), st.integers(1, 300))
def test_a_window_shows_what_the_whole_shows(plan, whole, x, y, w, h):
    window = render(plan, Box(1000 + x, 800 + y, 1000 + x + w, 800 + y + h))
    assert np.array_equal(window, whole[40 + y : 40 + y + h, 40 + x : 40 + x + w])


def test_the_same_arguments_give_the_same_slide(plan, truth):
    again = plan_slide(WIDTH, HEIGHT, seed=7, tissue=0.5)
    box = Box(1400, 1000, 1800, 1300)
    assert np.array_equal(render(plan, box), render(again, box))
    for one, two in zip(truth, truth_objects(again), strict=True):
        assert np.array_equal(one.ids, two.ids)
        assert np.array_equal(one.coords, two.coords)
    other = plan_slide(WIDTH, HEIGHT, seed=8, tissue=0.5, style=plan.style, bank=plan.bank)
    assert not np.array_equal(render(plan, box), render(other, box))
    ids = np.concatenate([o.ids for o in (*truth, *truth_objects(other))])
    assert len(np.unique(ids, axis=0)) == len(ids)


def test_a_seed_gives_the_same_slide_in_every_version(all_sprites):
    """Numbers of version 0.1, with a tolerance for other processors and libraries."""
    plan = plan_slide(700, 600, mpp=0.5, seed=5, tissue=0.7)
    nuclei, cells = truth_objects(plan)
    assert (len(nuclei), len(cells)) == (154, 153)
    assert shapely.area(nuclei.polygons()).sum() == pytest.approx(34692.075, rel=1e-5)
    pixels = render(plan, Box(0, 0, 700, 600))
    assert pixels.mean((0, 1)) == pytest.approx([202.676, 210.993, 219.342], abs=0.01)
    high, low = nuclei.ids[0].tolist()
    assert str(uuid.UUID(int=high << 64 | low)) == "3d1cc8b1-c7a0-8d92-9b98-60ceef90bc4f"


def test_nuclei_have_the_areas_of_their_kind(plan, truth):
    nuclei, cells = truth
    kinds = plan.bank.kind[plan.sprite[plan.cells]]
    assert len(kinds) == len(cells)
    um2 = shapely.area(nuclei.polygons()) * plan.mpp**2
    low, high = np.array([KINDS[k].nucleus_um2 for k in kinds[plan.nucleus_cell]]).T
    assert (um2 >= low * 0.99).all()
    assert (um2 <= high * 1.01).all()
    assert set(kinds) == set(range(len(KINDS)))


def test_density_is_that_of_a_slide(plan, truth):
    assert 115 <= len(truth[0]) / (WIDTH * HEIGHT * 0.5 / 1e6) <= 150


def test_outlines_are_valid_and_lie_in_cell_and_slide(plan, truth):
    nuclei, cells = (objects.polygons() for objects in truth)
    for polygons in (nuclei, cells):
        assert shapely.is_valid(polygons).all()
        assert shapely.box(0, 0, WIDTH, HEIGHT).contains(
            shapely.union_all(shapely.envelope(polygons))
        )
    # Outlines are rounded to 0.01 px, so that a nucleus may pass its cell by that.
    grown = shapely.buffer(cells[plan.nucleus_cell], 0.05)
    assert shapely.covers(grown, nuclei).all()


def test_nuclei_of_two_cells_hardly_overlap(plan, truth):
    nuclei = truth[0].polygons()
    one, two = shapely.STRtree(nuclei).query(nuclei, predicate="intersects")
    one, two = one[one < two], two[one < two]
    assert len(one) > 5  # some touch, as on glass
    smaller = np.minimum(shapely.area(nuclei[one]), shapely.area(nuclei[two]))
    share = shapely.area(shapely.intersection(nuclei[one], nuclei[two])) / smaller
    assert share.max() < 0.25
    assert np.quantile(share, 0.9) < 0.16


def test_nuclei_are_dark_where_the_truth_says(plan, truth):
    pixels = cv2.cvtColor(render(plan, Box(0, 0, WIDTH, HEIGHT)), cv2.COLOR_RGB2GRAY)
    nuclei = truth[0].polygons()
    others = shapely.STRtree(nuclei)
    darker = []
    for nucleus in nuclei:
        ring = nucleus.buffer(7).difference(nucleus.buffer(3))
        if len(others.query(ring, predicate="intersects")):
            continue  # a neighbour lies in the ring
        inner, outer = nucleus.buffer(-1.5), ring
        darker.append(_mean(pixels, inner) < _mean(pixels, outer) - 5)
    assert len(darker) > 200
    assert np.mean(darker) > 0.98


def _mean(pixels, shape):
    """Mean of the pixels whose middle lies in the shape."""
    x0, y0, x1, y1 = np.asarray(shape.bounds).astype(int)
    fy, fx = np.mgrid[max(y0, 0) : min(y1 + 1, HEIGHT), max(x0, 0) : min(x1 + 1, WIDTH)]
    inside = shapely.contains_xy(shape, fx + 0.5, fy + 0.5)
    return pixels[fy[inside], fx[inside]].mean()


@pytest.mark.parametrize("mpp", [0.15, 0.25, 0.5])
def test_painted_masks_have_the_area_of_their_outline(mpp):
    bank = Bank.paint(mpp, draw_style(np.random.default_rng(1)), count=40, seed=1)
    for (h, w), starts in zip(bank.shape, bank.ring_start, strict=True):
        if starts[2] > starts[1]:
            ring = bank.rings[starts[1] : starts[2]]
            area = shapely.Polygon(ring).area
            assert coverage(ring, (int(h), int(w))).sum() == pytest.approx(area, rel=0.02)


def test_mirrored_sprites_carry_their_outlines_along(plan, truth):
    """The darkest spot of each lone cell lies in its nucleus, in all eight variants."""
    cells = plan.variant[plan.cells]
    assert set(cells) == set(range(8))
    pixels = render(plan, Box(0, 0, WIDTH, HEIGHT)).mean(2)
    hit = np.zeros((8, 2))
    for nucleus, cell in zip(truth[0].polygons(), plan.nucleus_cell, strict=True):
        x, y = nucleus.centroid.coords[0]
        hit[cells[cell]] += [pixels[int(y), int(x)] < 150, 1]
    assert (hit[:, 1] > 10).all()
    assert (hit[:, 0] / hit[:, 1] > 0.85).all()


def test_openslide_reads_it_as_aperio(slide, plan):
    properties = slide.properties
    assert properties["openslide.vendor"] == "aperio"
    assert float(properties["openslide.mpp-x"]) == float(properties["openslide.mpp-y"]) == 0.25
    assert float(properties["openslide.objective-power"]) == 40
    assert slide.level_dimensions == ((WIDTH, HEIGHT), (WIDTH // 4, HEIGHT // 4))
    assert set(slide.associated_images) == {"thumbnail", "label", "macro"}


@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (1300, 900), (1000, 1000), (WIDTH - 300, HEIGHT - 300)]
)
def test_the_file_holds_what_render_shows(slide, plan, x, y):
    expected = render(plan, Box(x, y, x + 300, y + 300)).astype(int)
    read = np.asarray(slide.read_region((x, y), 0, (300, 300)).convert("RGB")).astype(int)
    assert np.abs(read - expected).mean() < 4
    assert np.quantile(np.abs(read - expected), 0.99) < 20


def test_the_quarter_level_lies_over_the_slide(slide, plan):
    level = _grey(np.asarray(slide.read_region((1300, 900), 1, (75, 75)).convert("RGB")))
    errors = {}
    for dx in (-2, 0, 2):
        for dy in (-2, 0, 2):
            full = render(plan, Box(1300 + dx, 900 + dy, 1600 + dx, 1200 + dy))
            quarter = cv2.resize(full, (75, 75), interpolation=cv2.INTER_AREA)
            errors[dx, dy] = np.abs(_grey(quarter) - level).mean()
    assert min(errors, key=errors.get) == (0, 0)
    assert errors[0, 0] < 5


def _grey(pixels):
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(float)


def test_small_and_empty_slides_are_slides_too(plan, tmp_path):
    empty = plan_slide(700, 300, seed=1, tissue=0, style=plan.style, bank=plan.bank)
    assert [len(objects) for objects in truth_objects(empty)] == [0, 0]
    write_slide(tmp_path / "empty.svs", empty)
    with openslide.OpenSlide(tmp_path / "empty.svs") as opened:
        assert opened.dimensions == (700, 300)
        assert np.asarray(opened.read_region((0, 0), 0, (700, 300)))[..., :3].min() > 200


def test_an_interrupted_slide_is_no_slide(plan, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_slide(tmp_path / "a.svs", plan, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_fields_carry_their_truth(tmp_path):
    write_fields(tmp_path / "a", count=4, size_px=256, mpp=(0.25, 0.5), seed=3, per_bank=2)
    coco = json.loads((tmp_path / "a/annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        f"images/field_000{i}.png" for i in range(4)
    ]
    assert len({image["mpp"] for image in coco["images"]}) == 2
    cells = {(a["image_id"], a["cell_id"]): a for a in coco["annotations"] if a["category_id"] == 2}
    assert len(cells) == sum(a["category_id"] == 2 for a in coco["annotations"])
    nuclei = [a for a in coco["annotations"] if a["category_id"] == 1]
    assert len(nuclei) > 10
    frame = shapely.box(0, 0, 256, 256)
    for annotation in coco["annotations"]:
        polygon = _polygon(annotation)
        assert frame.covers(polygon)
        assert polygon.area == pytest.approx(annotation["area"], rel=0.01, abs=1)
    for nucleus in nuclei:
        cell = cells[nucleus["image_id"], nucleus["cell_id"]]
        assert _polygon(cell).buffer(0.1).covers(_polygon(nucleus))


def _polygon(annotation):
    return shapely.Polygon(np.reshape(annotation["segmentation"][0], (-1, 2)))


@pytest.mark.slow
def test_fields_do_not_depend_on_the_number_of_processes(tmp_path):
    for workers in (1, 2):
        write_fields(
            tmp_path / str(workers), count=5, size_px=96, mpp=(0.6, 0.8), seed=8, per_bank=2,
            workers=workers,
        )  # fmt: skip
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in sorted((tmp_path / n).rglob("*.*"))}
        for n in "12"
    )
    assert len(one) == 6
    assert one == two


def test_a_longer_series_of_fields_begins_alike(tmp_path):
    write_fields(tmp_path / "a", count=1, size_px=128, seed=4)
    write_fields(tmp_path / "b", count=2, size_px=128, seed=4)
    a, b = (cv2.imread(str(tmp_path / n / "images/field_0000.png")) for n in "ab")
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "wrong",
    [{"mpp": 0}, {"tissue": 1.5}, {"density": -1}, {"mix": {"squamous": 1}}, {"width": 10}],
    ids=str,
)
def test_a_plan_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        plan_slide(**({"width": 1000, "height": 1000} | wrong))


def test_other_names_than_svs_are_refused(plan, tmp_path):
    with pytest.raises(ConfigError, match="svs"):
        write_slide(tmp_path / "a.tif", plan)
