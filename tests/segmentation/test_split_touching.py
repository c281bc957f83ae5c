"""Laws of splitting: touching nuclei are split, ovals are not, whatever the window."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.segmentation.components import find_components
from wsi_pipeline.segmentation.split_touching import _distance, split_touching

ONE = np.array([False, True])


def discs(*circles, shape=(80, 120)):
    image = np.zeros(shape, np.uint8)
    for x, y, r in circles:
        rows, cols = np.ogrid[: shape[0], : shape[1]]
        image[(cols + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= r * r] = 255
    return image


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
def test_touching_nuclei_are_split_and_ovals_are_not(circles, count):
    components = find_components(discs(*circles), 0.5)
    assert len(components) == 1
    assert len(split_touching(components, ONE, min_px=20, split=True)) == count
    assert len(split_touching(components, ONE, min_px=20, split=False)) == 1


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(0, 30))
def test_splitting_does_not_depend_on_the_window(dx, dy):
    image = discs((60, 40, 9), (76, 42, 8), (64, 55, 7))
    cropped = find_components(np.ascontiguousarray(image[dy:, dx:]), 0.5)
    a = split_touching(find_components(image, 0.5), ONE, min_px=20, split=True)
    b = split_touching(cropped, ONE, min_px=20, split=True)
    assert (a.labels[dy:, dx:] == b.labels).all()
    assert (a.first_pixel - (dx, dy) == b.first_pixel).all()


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 25), st.integers(1, 25))), st.integers(1, 9))
def test_objects_part_a_component_without_rest(mask, min_px):
    components = find_components(np.where(mask, 255, 0).astype(np.uint8), 0.5)
    selected = np.ones(len(components) + 1, bool)
    objects = split_touching(components, selected, min_px=min_px, split=True)
    assert (objects.area_px >= min_px).all()
    for k in range(1, len(objects) + 1):
        own = objects.labels == k
        assert own.sum() == objects.area_px[k - 1]
        assert len(np.unique(components.labels[own])) == 1
        row, column = np.argwhere(own)[0]
        assert objects.first_pixel[k - 1].tolist() == [column, row]
    large = (components.labels > 0) & (components.area_px[components.labels] >= min_px)
    assert not objects.labels[~large].any()


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_distances_are_exact(mask):
    framed = np.pad(mask, 1).astype(np.uint8)
    exact = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    assert np.sqrt(_distance(mask)) == pytest.approx(exact, abs=1e-3)


def test_debris_is_left_out_by_size():
    components = find_components(discs((30, 40, 10), (80, 40, 2)), 0.5)
    assert len(components) == 2
    objects = split_touching(components, np.ones(3, bool), min_px=50, split=True)
    assert objects.area_px.tolist() == [int((discs((30, 40, 10)) > 0).sum())]
