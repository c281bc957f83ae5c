"""Laws of outlines: traced rings enclose their pixels, simplified ones stay near and valid."""

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.segmentation.components import find_components
from wsi_pipeline.segmentation.contours import TOLERANCE_PX, douglas_peucker, simplify, trace
from wsi_pipeline.segmentation.split_touching import split_touching

masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def label(probability):
    """Each component of a probability image as one object."""
    components = find_components(probability, 0.5)
    return split_touching(components, np.ones(len(components) + 1, bool), min_px=0, split=False)


def traced(probability):
    objects = label(probability)
    return trace(objects.labels, probability, objects.first_pixel, 127.5)


def image_of(mask):
    return np.where(mask, 255, 0).astype(np.uint8)


def blobs(seed, shape=(600, 600)):
    """About 90 soft, wavy blobs like the probabilities of a network."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = cv2.GaussianBlur(noise, (0, 0), 9)
    return np.clip(128 + (smooth / smooth.std() - 0.7) * 120, 0, 255).astype(np.uint8)


def ring(vertices, offsets, k):
    return vertices[offsets[k] : offsets[k + 1]]


@given(masks)
def test_contours_of_any_mask_are_valid_and_enclose_its_pixels(mask):
    objects = label(image_of(mask))
    vertices, offsets = trace(objects.labels, image_of(mask), objects.first_pixel, 127.5)
    polygons = [shapely.Polygon(ring(vertices, offsets, k)) for k in range(len(objects))]
    assert shapely.is_valid(polygons).all()
    for k, polygon in enumerate(polygons, 1):
        rows, cols = np.nonzero(objects.labels == k)
        assert shapely.contains_xy(polygon, cols + 0.5, rows + 0.5).all()
        # Holes are filled: other pixels may lie inside, but never outside of the filled shape.
        filled = cv2.drawContours(
            np.zeros(mask.shape, np.uint8),
            cv2.findContours((objects.labels == k).astype(np.uint8), 0, 1)[0], -1, 1, -1,
        )  # fmt: skip
        rows, cols = np.nonzero(filled == 0)
        assert not shapely.contains_xy(polygon, cols + 0.5, rows + 0.5).any()


def test_contours_follow_the_probability_between_pixels():
    """A ramp that crosses the level 0.57 px beyond a pixel's centre is cut there."""
    probability = np.zeros((5, 8), np.uint8)
    probability[1:4, 2:5] = 200
    probability[1:4, 5] = 70
    vertices, _ = traced(probability)
    assert vertices[:, 0].max() == pytest.approx(4.5 + 72.5 / 130, abs=1 / 512)
    assert vertices[:, 0].min() == pytest.approx(2.5 - 72.5 / 200, abs=1 / 512)


@given(masks, st.floats(0, 3))
def test_simplified_rings_stay_within_the_tolerance(mask, tolerance):
    vertices, offsets = traced(image_of(mask))
    count = len(offsets) - 1
    shorter, starts = douglas_peucker(vertices, offsets, np.full(count, tolerance))
    for k in range(count):
        simple = ring(shorter, starts, k)
        distance = shapely.hausdorff_distance(
            shapely.linestrings(ring(vertices, offsets, k)), shapely.linestrings(simple)
        )
        assert distance <= tolerance + 1e-9
        assert (simple[0] == vertices[offsets[k]]).all() and (simple[0] == simple[-1]).all()


def reference(vertices, tolerance):
    """Douglas and Peucker's algorithm as published, from the first vertex and the farthest one."""
    last = len(vertices) - 1
    farthest = int(((vertices[:last] - vertices[0]) ** 2).sum(1).argmax())
    kept, parts = {0, farthest, last}, [(0, farthest), (farthest, last)]
    while parts:
        a, b = parts.pop()
        between = vertices[a + 1 : b]
        if len(between) == 0:
            continue
        chord = vertices[b] - vertices[a]
        along = np.clip((between - vertices[a]) @ chord / max(chord @ chord, 1e-300), 0, 1)
        away = np.hypot(*(between - vertices[a] - along[:, None] * chord).T)
        if away.max() > tolerance:
            k = a + 1 + int(away.argmax())
            kept.add(k)
            parts += [(a, k), (k, b)]
    return vertices[sorted(kept)]


def random_rings(rng):
    """Closed rings with corners anywhere, some with neighbours at the same place."""
    for count in rng.integers(3, 60, 5):
        corners = rng.normal(0, rng.choice([0.5, 3, 20]), (count, 2))
        corners = np.repeat(corners, rng.choice([1, 1, 1, 2], count), axis=0)
        yield np.vstack([corners, corners[:1]])


def traced_rings(rng):
    """Rings of an image, moved a little, so that no two vertices are equally far from a line."""
    vertices, offsets = traced(blobs(rng.integers(2**32), (150, 150)))
    for k in range(len(offsets) - 1):
        corners = ring(vertices, offsets, k)[:-1]
        corners = corners + rng.uniform(-1e-4, 1e-4, corners.shape)
        yield np.vstack([corners, corners[:1]])


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 3))
def test_simplification_is_that_of_douglas_and_peucker(seed, tolerance):
    rng = np.random.default_rng(seed)
    rings = [*random_rings(rng), *traced_rings(rng)]
    vertices, offsets = np.vstack(rings), np.cumsum([0, *map(len, rings)])
    coords, starts = douglas_peucker(vertices, offsets, np.full(len(rings), tolerance))
    rounded, ends, _ = simplify(vertices, offsets)
    compared = 0
    for k, given_ring in enumerate(rings):
        assert np.array_equal(ring(coords, starts, k), reference(given_ring, tolerance))
        expected = np.round(reference(given_ring, TOLERANCE_PX), 2)
        if len(expected) > 3 and shapely.Polygon(expected).is_valid:  # else it keeps more vertices
            assert np.array_equal(ring(rounded, ends, k), expected)
            compared += 1
    assert compared >= len(rings) - 6


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.9])
def test_outlines_are_near_the_exact_contour_closed_valid_and_on_the_grid(scale):
    vertices, offsets = traced(blobs(5))
    vertices = (vertices + np.array([70_001, 41_003])) * scale
    coords, starts, valid = simplify(vertices, offsets)
    assert valid.all() and np.array_equal(coords, np.round(coords, 2))
    for k in range(len(starts) - 1):
        outline = ring(coords, starts, k)
        assert (outline[0] == outline[-1]).all() and shapely.Polygon(outline).is_valid
        distance = shapely.hausdorff_distance(
            shapely.linestrings(outline), shapely.linestrings(ring(vertices, offsets, k))
        )
        assert distance <= TOLERANCE_PX + 0.0071  # rounding moves a vertex by √2 · 0.005 px


def test_outlines_do_not_depend_on_the_window():
    probability = blobs(7)
    vertices, offsets = traced(np.ascontiguousarray(probability[40:, 24:]))
    views = [simplify(*traced(probability)), simplify(vertices + np.array([24, 40]), offsets)]
    inner = []
    for coords, starts, _ in views:
        rings = (ring(coords, starts, k) for k in range(len(starts) - 1))
        inner.append({tuple(map(tuple, r)) for r in rings if (r > (26, 42)).all()})
    assert len(inner[0]) > 50 and inner[0] == inner[1]


def test_an_outline_thinner_than_the_tolerance_stays_an_outline():
    thin = np.array([[0, 0], [9, 0.1], [18, 0], [18, 0.3], [0, 0.3], [0, 0]], float)
    coords, offsets, _ = simplify(thin, np.array([0, len(thin)]))
    assert np.array_equal(coords, thin)
    assert offsets.tolist() == [0, len(thin)]
