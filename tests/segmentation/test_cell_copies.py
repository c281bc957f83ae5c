"""Laws of `cell_copies`: what is left are different cells, and each copy has a better one."""

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.segmentation.cell_copies import COVERED, SAME_CELL_IOU, cell_copies
from wsi_pipeline.segmentation.pairing import assign_nuclei

DISC = st.tuples(
    st.integers(0, 60), st.integers(0, 60), st.integers(6, 24), st.integers(0, 100),
    st.booleans(),
)  # fmt: skip
"""x, y, radius, score, and whether it holds a nucleus."""


def objects_of(discs):
    """Cells as discs, some with a nucleus in the middle; each nucleus with its cell."""
    nuclei = [(x, y) for x, y, _, _, has in discs if has]
    shapes = [shapely.Point(x, y).buffer(r) for x, y, r, _, _ in discs]
    shapes += [shapely.Point(p).buffer(2) for p in nuclei]
    kind = np.repeat([0, 1], [len(discs), len(nuclei)]).astype(np.uint8)
    score = np.array([d[3] / 100 for d in discs] + [0.9] * len(nuclei), np.float32)
    return assign_nuclei(
        Objects.from_polygons(
            np.array(shapes), classes=("cell", "nucleus"), class_index=kind,
            ids=np.zeros((len(kind), 2), np.uint64), score=score,
        )
    )  # fmt: skip


@given(st.lists(DISC, min_size=1, max_size=8))
def test_what_is_left_are_different_cells(discs):
    objects = objects_of(discs)
    copies = cell_copies(objects)
    shapes, cells = objects.polygons(), objects.class_index == 0
    assert not copies[~cells].any()
    has_nucleus = np.isin(np.arange(len(objects)), objects.parent)
    for k in np.flatnonzero(cells):
        better = (objects.score > objects.score[k]) & cells & ~copies
        better |= (
            (objects.score == objects.score[k]) & cells & ~copies & (np.arange(len(cells)) < k)
        )
        shared = shapely.area(shapely.intersection(shapes[better], shapes[k]))
        iou = shared / (shapely.area(shapes[better]) + shapes[k].area - shared)
        same = (iou >= SAME_CELL_IOU).any()
        part = not has_nucleus[k] and (shared >= COVERED * shapes[k].area).any()
        assert copies[k] == (same or part)


@given(st.lists(DISC, min_size=2, max_size=6), st.randoms())
def test_the_order_does_not_matter(discs, random):
    discs = [(*d[:3], i, False) for i, d in enumerate(discs)]  # no two scores are equal
    first, second = (
        {d for d, copy in zip(some, cell_copies(objects_of(some)), strict=True) if copy}
        for some in (discs, random.sample(discs, len(discs)))
    )
    assert first == second


def test_two_cells_with_a_nucleus_each_may_lie_on_each_other():
    above = [(30, 30, 20, 90, True), (38, 30, 14, 50, True)]
    assert not cell_copies(objects_of(above)).any()
    without = [(30, 30, 20, 90, True), (34, 34, 10, 50, False)]
    assert cell_copies(objects_of(without)).tolist()[:2] == [False, True]
