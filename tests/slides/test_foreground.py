"""Foreground: no cell is lost on generated thumbnails, and masks mean the same everywhere."""

import cv2
import numpy as np
import openslide
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.foreground import Foreground, intersect, roi_foreground

STAINS = np.array([[0.1, 0.3, 0.2], [0.35, 0.15, 0.1], [0.05, 0.25, 0.4], [0.3, 0.3, 0.15]])


class Scene:
    """A thumbnail in optical density, painted step by step; `cells` is the truth."""

    def __init__(self, rows=600, columns=800, seed=0):
        self.rng = np.random.default_rng(seed)
        self.y, self.x = np.mgrid[:rows, :columns]
        # Light that falls off towards one corner, and glass with a slight tint.
        fall = np.hypot(self.x / columns - 0.4, self.y / rows - 0.3)
        self.od = 0.03 + 0.04 * fall[..., None] + np.array([0.0, 0.004, 0.008])
        self.cells = np.zeros((rows, columns), bool)

    def cell(self, x, y, radius, depth):
        """A disc of about `depth` times a stain's colour; radius 0.5 is a single pixel."""
        reach = int(radius) + 1
        near = np.s_[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        disc = np.hypot(self.x[near] - x, self.y[near] - y) <= radius
        self.od[near][disc] += depth * STAINS[self.rng.integers(len(STAINS))]
        self.cells[near] |= disc
        return self

    def scatter(self, count, radius=(0.6, 4), depth=(0.25, 1)):
        rows, columns = self.cells.shape
        for _ in range(count):
            x, y = int(self.rng.integers(columns)), int(self.rng.integers(rows))
            self.cell(x, y, self.rng.uniform(*radius), self.rng.uniform(*depth))
        return self

    def stroke(self, points, colour, width=30):
        """Ink over everything: what was seen through it stays visible."""
        ink = np.zeros(self.cells.shape, np.uint8)
        cv2.polylines(ink, [np.array(points, np.int32)], False, 1, width)
        self.od[ink > 0] += -np.log10(np.array(colour) / 255)
        return ink > 0

    def image(self, noise=1.5, top=245):
        clean = top * 10.0**-self.od
        noisy = clean + self.rng.normal(0, noise, clean.shape)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def find(image, downsample=32.0, mode="auto"):
    rows, columns = image.shape[:2]
    return find_foreground(
        image, downsample, round(columns * downsample), round(rows * downsample), mode
    )


def lost(scene, found):
    """Cell pixels outside the foreground."""
    return int((scene.cells & ~found.mask).sum())


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.5, 3.0]), st.integers(1, 60))
@settings(max_examples=15)
def test_sparse_smears_lose_no_cell_pixel(seed, noise, count):
    scene = Scene(450, 600, seed).scatter(count, depth=(0.4, 1))
    found = find(scene.image(noise))
    assert lost(scene, found) == 0
    assert found.share < 0.02 * count + 0.05, "empty glass is left out"


def test_a_single_faint_pixel_survives():
    scene = Scene().cell(321, 123, 0.5, 0.3)
    found = find(scene.image())
    assert lost(scene, found) == 0
    assert 0 < found.share < 0.05
    x, y = 32.0 * 321.5, 32.0 * 123.5
    assert found.covers(x, y, x + 1, y + 1)
    assert found.contains(np.array([x]), np.array([y])).tolist() == [True]


def test_a_deposit_without_gaps_is_no_background():
    """A third of the glass under one even sheet, wider than any block of the light's estimate."""
    scene = Scene().scatter(30)
    scene.cell(400, 300, 230, 0.35)
    assert lost(scene, find(scene.image())) == 0


def test_dense_deposit_with_faint_cells():
    scene = Scene(seed=3).scatter(2500, radius=(2, 6), depth=(0.3, 1))
    assert lost(scene, find(scene.image())) == 0


def test_steep_light_loses_nothing():
    scene = Scene(seed=10)
    scene.od *= 4
    assert lost(scene, find(scene.scatter(60).image())) == 0


def test_jpeg_thumbnails():
    scene = Scene(seed=4).scatter(40, radius=(1, 4), depth=(0.5, 1))
    _, packed = cv2.imencode(".jpg", scene.image(), [cv2.IMWRITE_JPEG_QUALITY, 80])
    found = find(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    assert lost(scene, found) == 0
    assert found.share < 0.5


def test_black_border_is_taken_out_and_cells_stay():
    scene = Scene(seed=5).scatter(60)
    plain = find(scene.image()).share
    image = scene.image()
    image[:50] = image[:, :70] = 8
    scene.cells[:50] = scene.cells[:, :70] = False
    found = find(image)
    assert lost(scene, found) == 0
    assert "border" in found.rule
    assert not found.mask[:40, :60].any()
    assert found.share < plain + 0.1


def test_a_black_clump_at_the_edge_is_no_border():
    scene = Scene(seed=5).scatter(20)
    image = scene.image()
    component = np.hypot(scene.x - 400, scene.y) < 25
    image[component] = scene.rng.integers(0, 45, (int(component.sum()), 1))
    found = find(image)
    assert found.mask[component].all()
    assert "border" not in found.rule


@pytest.mark.parametrize("colour", [(30, 160, 60), (30, 60, 190)], ids=["green", "blue"])
def test_ink_is_taken_out_but_not_the_cells_in_and_beside_it(colour):
    scene = Scene(seed=6)
    ink = scene.stroke([(100, 100), (600, 120), (650, 500)], colour, 40)
    scene.scatter(80, radius=(1.5, 4), depth=(0.5, 1))
    found = find(scene.image())
    assert lost(scene, found) == 0
    assert "pen" in found.rule
    assert np.mean(found.mask[ink]) < 0.85
    assert not found.mask[110, 300], "in the middle of the stroke"


def test_ink_of_a_stain_s_colour_stays():
    scene = Scene(seed=6)
    ink = scene.stroke([(100, 100), (600, 120)], (220, 60, 120), 40)
    found = find(scene.scatter(20).image())
    assert found.mask[ink].all()
    assert "pen" not in found.rule


def test_padding_is_neither_background_nor_foreground():
    scene = Scene(seed=7).scatter(60, depth=(0.5, 1))
    image = np.full((900, 1200, 3), 255, np.uint8)
    image[150:750, 200:1000] = np.minimum(scene.image(top=235), 251)
    found = find(image)
    assert not (np.pad(scene.cells, ((150, 150), (200, 200))) & ~found.mask).any()
    assert "padding" in found.rule
    assert not found.mask[:100].any()
    assert found.share < 0.35


def test_white_glass_is_not_padding():
    """Overexposed background around hard-edged cells: nothing but cells is not white."""
    scene = Scene(seed=8)
    scene.od[:] = 0
    scene.scatter(300, radius=(3, 6), depth=(0.2, 0.3))
    found = find(scene.image(noise=0, top=255))
    assert lost(scene, found) == 0
    assert "padding" not in found.rule
    assert found.share < 0.9


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda s: np.full_like(s.image(), 240), "nothing differs"),
        (lambda s: s.image(top=60), "not bright"),
        (lambda s: s.rng.integers(150, 255, (600, 800, 3)).astype(np.uint8), ""),
        (lambda s: s.scatter(9000, radius=(5, 9)).image(), ""),
        (lambda s: np.zeros((600, 800, 3), np.uint8), "usable"),
    ],
    ids=["blank", "dark", "noise", "full", "black"],
)
def test_everything_is_kept_where_the_background_is_unclear(make, why):
    found = find(make(Scene(seed=9)))
    assert found.mask.all()
    assert found.share == pytest.approx(1)
    assert found.rule.startswith("everything") and why in found.rule


@pytest.mark.parametrize("side", [512, 1024])
def test_small_slides_are_kept_whole(side):
    found = find(Scene(side, side).scatter(5).image(), downsample=1.0)
    assert found.mask.all() and "1500 px" in found.rule


def test_everything_on_request():
    assert find(Scene().image(), mode="all").share == pytest.approx(1)
    with pytest.raises(ConfigError, match="all or auto"):
        find(Scene().image(), mode="otsu")


def test_other_images_and_sizes_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        find_foreground(np.zeros((9, 9), np.uint8), 1.0, 9, 9)
    with pytest.raises(ValueError, match="does not cover"):
        find_foreground(np.zeros((60, 80, 3), np.uint8), 32.0, 9000, 9000)


@st.composite
def masks(draw):
    """Small random foregrounds whose downsample does not divide the slide."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, height = draw(st.tuples(st.integers(5, 90), st.integers(5, 90)))
    downsample = draw(st.sampled_from([1.0, 2.0, 3.7, 4.0]))
    shape = tuple(max(1, round(side / downsample)) for side in (height, width))
    return Foreground(rng.random(shape) < draw(st.floats(0, 1)), downsample, width, height, "test")


def full(found):
    """The mask at level 0, pixel by pixel (at pixel centres)."""
    x, y = np.meshgrid(np.arange(found.width) + 0.5, np.arange(found.height) + 0.5)
    return found.contains(x.ravel(), y.ravel()).reshape(y.shape)


@given(masks(), st.integers(-20, 100), st.integers(-20, 100), st.integers(1, 60))
def test_covers_is_any_kept_pixel_that_the_box_meets(found, x, y, side):
    edges = [
        np.append(np.arange(n) * found.downsample, end)
        for n, end in zip(found.mask.shape, (found.height, found.width), strict=True)
    ]
    (top, bottom), (left, right) = ((e[:-1], e[1:]) for e in edges)
    rows = (top < min(y + side, found.height)) & (bottom > max(y, 0))
    columns = (left < min(x + side, found.width)) & (right > max(x, 0))
    assert found.covers(x, y, x + side, y + side) == found.mask[np.ix_(rows, columns)].any()


@given(masks(), st.sampled_from([0.7, 1.0, 2.5]), st.integers(0, 30))
def test_window_is_a_function_of_the_pixel(found, scale, cut):
    """Windows agree where they overlap, and with the points at their pixels' centres."""
    box = Box(-5, -7, 40, 50)
    whole = found.window(box, scale)
    part = found.window(Box(cut - 3, -7, 40, cut + 1), scale)
    assert np.array_equal(part, whole[: cut + 8, cut + 2 :])
    x, y = np.meshgrid(np.arange(-5, 40) + 0.5, np.arange(-7, 50) + 0.5)
    points = found.contains(x.ravel() * scale, y.ravel() * scale)
    assert np.array_equal(whole.ravel(), points)


@given(masks())
def test_polygons_cover_what_the_mask_keeps(found):
    polygons = found.polygons()
    area = sum(polygon.area for polygon in polygons)
    assert area == pytest.approx(found.share * found.width * found.height, abs=1e-6)
    assert all(polygon.is_valid for polygon in polygons)
    x, y = np.meshgrid(np.arange(found.width) + 0.47, np.arange(found.height) + 0.47)
    inside = np.zeros(x.shape, bool)
    for polygon in polygons:
        shapely.prepare(polygon)
        inside |= shapely.contains_xy(polygon, x, y)
    assert np.array_equal(inside.ravel(), found.contains(x.ravel(), y.ravel()))


@pytest.mark.slow
@given(masks(), st.floats(0, 30))
def test_dilation_keeps_whatever_is_within_the_margin(found, margin):
    grown = found.dilate(margin)
    assert not (found.mask & ~grown.mask).any()
    near = shapely.union_all(found.polygons()).buffer(margin)
    shapely.prepare(near)
    x, y = np.meshgrid(np.arange(found.width) + 0.5, np.arange(found.height) + 0.5)
    within = shapely.contains_xy(near, x, y)
    assert not (within & ~full(grown)).any()
    if margin == 0:
        assert grown is found


@given(masks(), masks())
def test_intersect_loses_nothing_that_both_keep(a, b):
    b = Foreground(b.mask, b.downsample, b.width, b.height, "other")
    if (a.width, a.height) != (b.width, b.height):
        with pytest.raises(ValueError, match="belong to slides of"):
            intersect(a, b)
        b = roi_foreground([shapely.box(3, 2, 20, 30)], a.width, a.height, max_px=16)
    both, other = intersect(a, b), intersect(b, a)
    assert not (full(a) & full(b) & ~full(both)).any()
    assert np.array_equal(both.mask, other.mask)
    fine = min(a, b, key=lambda f: (f.downsample, -f.mask.size))
    assert both.downsample == fine.downsample
    if a.mask.shape != b.mask.shape:
        assert not (both.mask & ~fine.mask).any()


@given(st.integers(1, 90), st.integers(1, 70), st.sampled_from([7, 33, 2048]))
def test_regions_of_interest_keep_every_pixel_they_touch(width, height, max_px):
    ring = shapely.Point(40, 30).buffer(25).difference(shapely.Point(40, 30).buffer(12))
    bow = shapely.make_valid(shapely.Polygon([(60, 10), (80, 30), (80, 10), (60, 30)]))
    line = shapely.LineString([(0, 40), (70, 60.5)])
    found = roi_foreground([ring, bow, line], width, height, max_px)
    assert max(found.mask.shape) <= max_px
    assert "3 regions" in found.rule
    i, j = np.indices(found.mask.shape) * found.downsample
    pixels = shapely.box(j, i, j + found.downsample, i + found.downsample)
    areas = sum(shapely.area(shapely.intersection(pixels, shape)) for shape in (ring, bow))
    met = [shapely.intersects(pixels, shape) for shape in (ring, bow, line)]
    assert found.mask[met[2] | (areas > 1e-9)].all()
    # An edge of a mask pixel may be rounded to either side of a shape's.
    near = [shapely.distance(pixels, shape) < 1e-9 for shape in (ring, bow, line)]
    assert not (found.mask & ~np.any(near, axis=0)).any()


def test_region_of_interest_on_the_grid_takes_no_neighbours():
    found = roi_foreground([shapely.box(10, 20, 30, 40)], 100, 80)
    assert np.argwhere(found.mask).min(axis=0).tolist() == [20, 10]
    assert np.argwhere(found.mask).max(axis=0).tolist() == [39, 29]
    assert found.share == pytest.approx(400 / 8000)
    assert roi_foreground([], 100, 80).share == 0


@pytest.mark.parametrize("pattern", ["isbi2014/edf/*.webp", "bttfa_lbc/images/*.jpg"])
def test_photographed_fields_are_kept_whole(shared, pattern):
    for path in sorted(shared.glob(pattern))[::5]:
        image = cv2.imread(str(path))[..., ::-1]
        found = find_foreground(image, 1.0, image.shape[1], image.shape[0])
        assert found.mask.all(), path.name


@pytest.mark.parametrize("name", ["CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"])
@pytest.mark.parametrize("side", [256, 1024])
def test_real_slides_lose_nothing_stained(shared, name, side):
    with openslide.OpenSlide(shared / "slides" / "files" / f"{name}.svs") as slide:
        image = np.asarray(slide.get_thumbnail((side, side)).convert("RGB"))
        width, height = slide.dimensions
    found = find_foreground(image, max(width, height) / max(image.shape), width, height)
    stained = np.ptp(image, axis=2) > 40
    assert stained.mean() > 0.2
    assert not (stained & ~found.mask).any()
    assert 0.3 < found.share < 0.95, "glass around the tissue is left out"
