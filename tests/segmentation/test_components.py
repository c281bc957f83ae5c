"""Laws of connected components: those of OpenCV, pixel by pixel."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.segmentation.components import find_components, from_label_image


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))), st.integers(0, 255))
def test_components_are_those_of_opencv(probability, least):
    components = find_components(probability, least / 255)
    mask = (probability >= least).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    assert len(components) == count - 1
    assert np.array_equal(components.labels > 0, mask > 0)
    for k in range(1, count):
        own = components.labels == components.labels[labels == k][0]
        assert np.array_equal(own, labels == k)
        (number,) = np.unique(components.labels[labels == k])
        x, y, w, h, area = stats[k]
        assert components.boxes[number].tolist() == [x, y, x + w, y + h]
        assert components.area_px[number] == area
        assert components.first_x[number] == np.flatnonzero(labels[y] == k)[0]


@given(hnp.arrays(np.int64, (7, 9), elements=st.integers(0, 3)))
def test_label_images_become_components_pixel_by_pixel(labels):
    components = from_label_image(labels)
    assert ((components.labels > 0) == (labels > 0)).all()
    for k in range(1, len(components) + 1):
        own = components.labels == k
        assert len(np.unique(labels[own])) == 1
        assert cv2.connectedComponents(own.astype(np.uint8), connectivity=4)[0] == 2
        rows, cols = np.nonzero(own)
        box = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        assert components.boxes[k].tolist() == box
        assert components.first_x[k] == cols[0] and components.area_px[k] == own.sum()
