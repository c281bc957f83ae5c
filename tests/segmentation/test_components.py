"""Laws of components, parting and contours."""

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.segmentation.components import find_components, from_label_image
from wsi_pipeline.segmentation.contours import simplified, simplify, trace
from wsi_pipeline.segmentation.split_touching import split_touching


def polygons(vertices, offsets):
    rings = np.arange(len(offsets), dtype=np.int64)
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, vertices, (offsets, rings))


def discs(*circles, shape=(80, 120)):
    image = np.zeros(shape, np.uint8)
    for x, y, r in circles:
        rows, cols = np.ogrid[: shape[0], : shape[1]]
        image[(cols + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= r * r] = 255
    return image


masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))), st.integers(0, 255))
def test_clumps_are_opencvs_components(probability, least):
    components = find_components(probability, least / 255)
    mask = (probability >= least).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    assert len(components) == count - 1
    for k in range(1, count):
        mine = components.labels == components.labels[labels == k][0]
        assert np.array_equal(mine, labels == k)
        (mine,) = np.unique(components.labels[labels == k])
        x, y, w, h, area = stats[k]
        assert components.boxes[mine].tolist() == [x, y, x + w, y + h]
        assert components.area_px[mine] == area
        assert components.first_x[mine] == np.flatnonzero(labels[y] == k)[0]
    assert np.array_equal(components.labels > 0, mask > 0)


@given(masks)
def test_contours_of_any_mask_are_valid_and_enclose_its_pixels(mask):
    probability = np.where(mask, 255, 0).astype(np.uint8)
    components = find_components(probability, 0.5)
    everything = np.ones(len(components) + 1, bool)
    pieces = split_touching(components, everything, min_px=0, split=False)
    vertices, offsets = trace(pieces.labels, probability, pieces.first, 127.5)
    rings = polygons(vertices, offsets)
    assert len(rings) == len(components) and shapely.is_valid(rings).all()
    for k, ring in enumerate(rings, 1):
        rows, cols = np.nonzero(pieces.labels == k)
        assert shapely.contains_xy(ring, cols + 0.5, rows + 0.5).all()
        # Holes are filled, so other pixels may lie inside, but never outside of the filled shape.
        filled = cv2.drawContours(
            np.zeros(mask.shape, np.uint8),
            cv2.findContours((pieces.labels == k).astype(np.uint8), 0, 1)[0], -1, 1, -1,
        )  # fmt: skip
        rows, cols = np.nonzero(filled == 0)
        assert not shapely.contains_xy(ring, cols + 0.5, rows + 0.5).any()


@given(masks, st.floats(0, 3))
def test_simplified_rings_stay_within_the_tolerance(mask, tolerance):
    probability = np.where(mask, 255, 0).astype(np.uint8)
    components = find_components(probability, 0.5)
    pieces = split_touching(components, np.ones(len(components) + 1, bool), min_px=0, split=False)
    vertices, offsets = trace(pieces.labels, probability, pieces.first, 127.5)
    shorter, starts = simplify(vertices, offsets, np.full(len(pieces), tolerance))
    for k in range(len(pieces)):
        ring = shapely.linestrings(vertices[offsets[k] : offsets[k + 1]])
        simple = shapely.linestrings(shorter[starts[k] : starts[k + 1]])
        assert shapely.hausdorff_distance(ring, simple) <= tolerance + 1e-9
        assert (shorter[starts[k]] == shorter[starts[k + 1] - 1]).all()


def test_contours_follow_the_probability_between_pixels():
    """A ramp that crosses the level 0.3 px beyond a pixel's centre is cut there."""
    probability = np.zeros((5, 8), np.uint8)
    probability[1:4, 2:5] = 200
    probability[1:4, 5] = 70
    components = find_components(probability, 0.5)
    pieces = split_touching(components, np.array([False, True]), min_px=0, split=False)
    vertices, _ = trace(pieces.labels, probability, pieces.first, 127.5)
    assert vertices[:, 0].max() == pytest.approx(4.5 + 72.5 / 130, abs=1 / 512)
    assert vertices[:, 0].min() == pytest.approx(2.5 - 72.5 / 200, abs=1 / 512)


@pytest.mark.parametrize(
    ("circles", "count"),
    [
        ([(30, 40, 10)], 1),
        ([(30, 40, 10), (48, 40, 10)], 2),
        ([(30, 40, 10), (47, 40, 8), (30, 57, 8)], 3),
        ([(30, 40, 10), (36, 40, 10)], 1),
        ([(30, 40, 12), (46, 40, 5)], 2),
    ],
)
def test_touching_nuclei_are_parted_and_ovals_are_not(circles, count):
    components = find_components(discs(*circles), 0.5)
    assert len(components) == 1
    wanted = np.array([False, True])
    assert len(split_touching(components, wanted, min_px=20, split=True)) == count
    assert len(split_touching(components, wanted, min_px=20, split=False)) == 1


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(0, 30))
def test_parting_does_not_depend_on_the_window(dx, dy):
    image = discs((60, 40, 9), (76, 42, 8), (64, 55, 7))
    whole = find_components(image, 0.5)
    crop = np.ascontiguousarray(image[dy:, dx:])
    part = find_components(crop, 0.5)
    wanted = np.array([False, True])
    a = split_touching(whole, wanted, min_px=20, split=True)
    b = split_touching(part, wanted, min_px=20, split=True)
    assert (a.labels[dy:, dx:] == b.labels).all()
    assert (a.first - (dx, dy) == b.first).all()


def test_debris_is_dropped_by_size():
    image = discs((30, 40, 10), (80, 40, 2))
    components = find_components(image, 0.5)
    assert len(components) == 2
    pieces = split_touching(components, np.ones(3, bool), min_px=50, split=True)
    assert pieces.area_px.tolist() == [int((discs((30, 40, 10)) > 0).sum())]


@given(hnp.arrays(np.int64, (7, 9), elements=st.integers(0, 3)))
def test_label_images_become_clumps_pixel_by_pixel(labels):
    components = from_label_image(labels)
    assert ((components.labels > 0) == (labels > 0)).all()
    for k in range(1, len(components) + 1):
        mine = components.labels == k
        assert len(np.unique(labels[mine])) == 1
        assert cv2.connectedComponents(mine.astype(np.uint8), connectivity=4)[0] == 2
        rows, cols = np.nonzero(mine)
        box = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        assert components.boxes[k].tolist() == box
        assert components.first_x[k] == cols[0] and components.area_px[k] == mine.sum()


def test_an_outline_thinner_than_the_tolerance_stays_an_outline():
    ring = np.array([[0, 0], [9, 0.1], [18, 0], [18, 0.3], [0, 0.3], [0, 0]], float)
    coords, offsets, _ = simplified(ring, np.array([0, len(ring)]))
    assert np.array_equal(coords, ring)
    assert offsets.tolist() == [0, len(ring)]
