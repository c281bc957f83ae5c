"""Masks that are boxes, for the tests of metrics."""

import numpy as np
from hypothesis import strategies as st
from pycocotools import mask as coco

from wsi_pipeline.evaluation.mask_metrics import Masks
from wsi_pipeline.segmentation.model import Instances


def masks(*boxes, scores=None, shape=(8, 8)):
    """Instances that are boxes x0, y0, x1, y1."""
    rles = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros(shape, np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        rles.append(coco.encode(mask))
    return Masks(rles, np.array(np.ones(len(boxes)) if scores is None else scores, float), shape)


# Two true cells of 16 px side by side; found: the first and 4 px of the second (IoU 16/20), the
# upper half of the second (IoU 8/16, Dice 16/24), and 4 px of nothing.
TRUTH = masks((0, 0, 4, 4), (4, 0, 8, 4))
FOUND = masks((0, 0, 5, 4), (4, 0, 8, 2), (0, 6, 2, 8), scores=(0.9, 0.8, 0.7))
NONE = masks()


@st.composite
def crowds(draw, side=40, most=6):
    corner = st.tuples(*[st.integers(0, side - 5)] * 2, *[st.integers(1, 12)] * 2)
    boxes = draw(st.lists(corner, max_size=most))
    scores = draw(st.lists(st.integers(1, 9), min_size=len(boxes), max_size=len(boxes)))
    inside = [(x, y, min(x + w, side), min(y + h, side)) for x, y, w, h in boxes]
    return inside, np.array(scores) / 10


def drawn(crowd, side=40):
    return masks(*crowd[0], scores=crowd[1], shape=(side, side))


def instances_of(boxes, scores, classes, grid=255):
    n = len(boxes)
    return Instances(
        np.array(boxes, np.float32).reshape(n, 4), np.array(classes, np.uint8),
        np.array(scores, np.float32), np.full((n, 28, 28), grid, np.uint8),
    )  # fmt: skip
