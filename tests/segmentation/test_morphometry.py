"""Morphometry against hand computation, shapely, brute force and the laws of geometry."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from wsi_pipeline.core.errors import MppError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.segmentation.morphometry import MORPHOMETRY, mean_od, morphometry


def objects_of(*polygons):
    """Objects with coordinates as given, not rounded to 0.01 px."""
    n = len(polygons)
    _, coords, (rings, shells) = shapely.to_ragged_array(np.array(polygons, object))
    return Objects(
        ("nucleus",),
        np.zeros((n, 2), np.uint64),
        np.zeros(n, np.uint8),
        np.ones(n, np.float32),
        coords,
        rings.astype(np.int64),
        shells.astype(np.int64),
    )


def measure(*polygons, mpp=1.0):
    table = morphometry(objects_of(*polygons), mpp)
    return [
        [float(table[f"Nucleus: {name}"][i]) for name in MORPHOMETRY] for i in range(len(polygons))
    ]


def ellipse(a, b, n=4000, angle=0.3):
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    points = shapely.Polygon(np.stack([a * np.cos(t), b * np.sin(t)], axis=1))
    return affinity.rotate(points, angle, use_radians=True)


@st.composite
def stars(draw, holes=False):
    """Star-shaped polygons, mostly concave, somewhere on a slide, wound either way."""
    n = draw(st.integers(4, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    t = (np.arange(n) + rng.uniform(0, 0.9, n)) * 2 * np.pi / n
    r = rng.uniform(5, 40, n)
    ring = np.stack([r * np.cos(t), r * np.sin(t)], axis=1)
    inner = [ring * 0.5] if holes and draw(st.booleans()) else []
    if draw(st.booleans()):
        ring = ring[::-1]
    x, y = draw(st.tuples(st.integers(0, 100_000), st.integers(0, 100_000)))
    polygon = affinity.translate(shapely.Polygon(ring, inner), x, y)
    return polygon


def test_square():
    square = shapely.box(10, 20, 14, 24)
    expected = [16, 16, math.pi / 4, 1, 4 * math.sqrt(2), 4, 0]
    assert measure(square)[0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_units_are_micrometres():
    area, length, circularity, *_, wide, narrow, _ = measure(shapely.box(0, 0, 40, 20), mpp=0.25)[0]
    assert (area, length, narrow) == pytest.approx((50, 30, 5))
    assert wide == pytest.approx(math.hypot(10, 5))
    assert circularity == pytest.approx(4 * math.pi * 50 / 900)


def test_rectangle_eccentricity():
    """Second moments of a rectangle go with the squares of its sides."""
    assert measure(shapely.box(0, 0, 6, 3))[0][-1] == pytest.approx(math.sqrt(1 - 1 / 4), rel=1e-6)


def test_triangle():
    triangle = shapely.Polygon([(0, 0), (4, 0), (0, 3)])
    area, length, circularity, solidity, wide, narrow, _ = measure(triangle)[0]
    assert (area, length, solidity, wide, narrow) == pytest.approx((6, 12, 1, 5, 12 / 5))
    assert circularity == pytest.approx(4 * math.pi * 6 / 144)


def test_ellipse_and_circle():
    thin, round_ = measure(ellipse(30, 10), ellipse(7, 7))
    assert thin[0] == pytest.approx(math.pi * 300, rel=1e-4)
    assert thin[4:] == pytest.approx([60, 20, math.sqrt(1 - 1 / 9)], rel=1e-4)
    assert round_[1:6] == pytest.approx([14 * math.pi, 1, 1, 14, 14], rel=1e-4)
    assert round_[6] == pytest.approx(0, abs=1e-3)


def test_cross_is_not_solid():
    cross = shapely.union(shapely.box(1, 0, 2, 3), shapely.box(0, 1, 3, 2))
    assert measure(cross)[0][3] == pytest.approx(5 / 7)


def test_hole_takes_area_and_adds_length_but_no_circularity():
    ring = shapely.Polygon(shapely.box(0, 0, 10, 10).exterior, [shapely.box(2, 2, 6, 6).exterior])
    full, holed = measure(shapely.box(0, 0, 10, 10), ring)
    assert holed[:2] == pytest.approx([84, 56])
    assert holed[2] == pytest.approx(full[2])
    assert holed[3] == pytest.approx(0.84)
    assert holed[4:6] == pytest.approx(full[4:6])
    assert holed[6] > 0, "the hole is off centre"


def test_flat_polygon_has_no_ratio():
    area, length, circularity, solidity, wide, narrow, eccentricity = measure(
        shapely.Polygon([(0, 0), (3, 4), (6, 8)])
    )[0]
    assert (area, length, circularity, wide, narrow) == pytest.approx((0, 20, 0, 10, 0))
    assert math.isnan(solidity) and math.isnan(eccentricity)


@given(stars(holes=True))
def test_agrees_with_shapely(polygon):
    area, length, circularity, solidity, wide, narrow, _ = measure(polygon)[0]
    shell, hull = shapely.Polygon(polygon.exterior), polygon.convex_hull
    corners = shapely.get_coordinates(hull)
    span = 2 * shapely.minimum_bounding_radius(polygon)
    edges = np.diff(corners, axis=0)
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1) / np.linalg.norm(edges, axis=1)[:, None]
    width = np.ptp(normals @ corners.T, axis=1).min()
    expected = [
        polygon.area,
        polygon.length,
        4 * math.pi * shell.area / shell.length**2,
        polygon.area / hull.area,
        span,
        width,
    ]
    got = [area, length, circularity, solidity, wide, narrow]
    assert got == pytest.approx(expected, rel=1e-5)


@given(stars(holes=True), st.floats(0, 360), st.integers(-50_000, 50_000))
def test_shape_does_not_depend_on_place(polygon, angle, shift):
    moved = affinity.translate(affinity.rotate(polygon, angle), shift, -shift)
    before, after = measure(polygon, moved)
    # Near a circle eccentricity is the root of a difference; its square is what is stable.
    before[-1], after[-1] = before[-1] ** 2, after[-1] ** 2
    assert after == pytest.approx(before, rel=1e-4, abs=1e-5)


@given(stars(), st.floats(0.1, 10))
def test_mpp_scales_like_the_polygon(polygon, factor):
    # About the polygon's centre, not the slide's origin: a pure scaling either way.
    scaled = measure(affinity.scale(polygon, factor, factor))[0]
    assert measure(polygon, mpp=factor)[0] == pytest.approx(scaled, rel=1e-4, abs=1e-5)


@given(st.lists(stars(holes=True), min_size=1, max_size=8))
@settings(max_examples=30)
def test_objects_do_not_influence_each_other(polygons):
    assert measure(*polygons) == [measure(polygon)[0] for polygon in polygons]


@given(st.floats(0, 1), st.floats(0.02, 1))
def test_the_largest_diameter_is_that_of_the_smallest_circle(x, y):
    """QuPath takes the smallest enclosing circle, not the greatest distance of two vertices."""
    triangle = shapely.Polygon([(0, 0), (10, 0), (10 * x, 10 * y)])
    wide = measure(triangle)[0][4]
    assert wide == pytest.approx(2 * shapely.minimum_bounding_radius(triangle), rel=1e-5)


def test_duplicate_vertices_and_many_vertices():
    """Pixel outlines with thousands of vertices, repeated ones among them."""
    fine = ellipse(500, 300, n=5000)
    ring = np.repeat(shapely.get_coordinates(fine), 2, axis=0)
    assert measure(shapely.Polygon(ring))[0] == pytest.approx(measure(fine)[0], rel=1e-6)


def test_no_objects():
    table = morphometry(Objects.empty(("nucleus",)), 0.25, prefix="Cell")
    assert list(table) == [f"Cell: {name}" for name in MORPHOMETRY]
    assert all(column.shape == (0,) and column.dtype == np.float32 for column in table.values())


@pytest.mark.parametrize("mpp", [0, -1, math.nan, math.inf])
def test_absurd_pixel_size(mpp):
    with pytest.raises(MppError, match="must be a positive number"):
        morphometry(objects_of(shapely.box(0, 0, 1, 1)), mpp)


def test_mean_od_by_hand():
    image = np.full((2, 3, 3), 255, np.uint8)
    image[0, 0] = (25, 255, 0)
    image[0, 1] = 51
    labels = np.array([[1, 1, 0], [3, 0, 0]], np.int32)
    first = (-math.log10(25 / 255) + math.log10(255)) / 3
    expected = [(first + math.log10(5)) / 2, math.nan, 0]
    assert mean_od(image, labels, 3) == pytest.approx(expected, rel=1e-6, nan_ok=True)


@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
@settings(max_examples=30)
def test_mean_od_agrees_with_numpy(seed, n):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    labels = rng.integers(0, n + 1, (17, 23), dtype=np.int32)
    background = (250, 240, 230)
    density = -np.log10(np.maximum(image, 1) / np.array(background)).mean(axis=2)
    expected = [density[labels == i + 1].mean() for i in range(n)]
    got = mean_od(image, labels, n, background)
    assert got.dtype == np.float32
    assert got == pytest.approx(expected, rel=1e-5)


def test_mean_od_does_not_add_over_objects_split_or_joined():
    """The mean of a union is the mean of the means, weighted by pixels."""
    rng = np.random.default_rng(1)
    image = rng.integers(1, 256, (20, 20, 3), dtype=np.uint8)
    labels = np.ones((20, 20), np.int32)
    labels[:5] = 2
    one, two = mean_od(image, labels, 2)
    assert mean_od(image, np.minimum(labels, 1), 1)[0] == pytest.approx(0.75 * one + 0.25 * two)


@pytest.mark.parametrize("label", [-1, 3])
def test_mean_od_refuses_strange_labels(label):
    labels = np.full((4, 4), label, np.int32)
    with pytest.raises(ValueError, match="0 … 2"):
        mean_od(np.zeros((4, 4, 3), np.uint8), labels, 2)


def test_mean_od_refuses_other_shapes_and_backgrounds():
    labels = np.zeros((4, 5), np.int32)
    with pytest.raises(ValueError, match="must have the same size"):
        mean_od(np.zeros((4, 4, 3), np.uint8), labels, 0)
    with pytest.raises(ValueError, match="background"):
        mean_od(np.zeros((4, 5, 3), np.uint8), labels, 0, (255, 0, 255))
