"""Masks of instances on their pixels."""

import numpy as np
from drawn_masks import instances_of

from wsi_pipeline.segmentation.model import paste


def test_a_full_grid_fills_its_box():
    """Pixels whose centres lie in the box; what lies outside of the image is cut."""
    found = instances_of([(1, 2, 5, 4), (1.6, 0, 3.4, 8), (-3, 6, 2, 11)], [1] * 3, [0] * 3)
    shown = np.zeros((3, 8, 8), int)
    for k, (window, mask) in enumerate(paste(found, (8, 8))):
        shown[k][window] = mask
    expected = np.zeros((3, 8, 8), int)
    expected[0, 2:4, 1:5] = expected[1, :, 2:3] = expected[2, 6:, :2] = 1
    assert np.array_equal(shown, expected)
    ((_, mask),) = paste(instances_of([(0, 0, 9, 9)], [1], [0], 127), (9, 9))
    assert not mask.any()


def test_a_mask_is_read_between_the_centres_of_its_grid():
    """Left half certain: of 28 columns over 56 pixels, the border falls in the middle."""
    found = instances_of([(2, 1, 58, 57)], [1], [0])
    found.masks[:, :, 14:] = 0
    ((window, mask),) = paste(found, (60, 60))
    assert window == (slice(1, 57), slice(2, 58))
    assert mask[:, :28].all()
    assert not mask[:, 28:].any()
