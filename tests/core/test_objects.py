"""Objects: what is taken, joined and linked stays what it was."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects


def cells(parent, shift=0.0):
    """Squares in a row, object i of the given parent at i + shift."""
    n = len(parent)
    squares = [shapely.box(10 * i + shift, 0, 10 * i + shift + 8, 8) for i in range(n)]
    ids = np.stack([np.arange(n), np.full(n, shift)], 1).astype(np.uint64)
    return Objects.from_polygons(
        squares,
        classes=("cell", "nucleus"),
        ids=ids,
        class_index=(np.asarray(parent) >= 0).astype(np.uint8),
        score=np.linspace(0.5, 1, n, dtype=np.float32),
        parent=np.asarray(parent, np.int64),
    )


@st.composite
def linked(draw):
    """Parents of some objects: each nucleus points at a cell, a cell at nothing."""
    holds = draw(st.lists(st.booleans(), min_size=1, max_size=12))
    able = [i for i, cell in enumerate(holds) if cell]
    return [-1 if cell or not able else draw(st.sampled_from([-1, *able])) for cell in holds]


@given(linked(), st.data())
def test_links_follow_their_objects(parent, data):
    whole = cells(parent)
    order = data.draw(st.permutations(range(len(parent))))
    chosen = np.array(order[: data.draw(st.integers(0, len(order)))], np.int64)
    some = whole.take(chosen)
    for new, old in enumerate(chosen):
        owner = parent[old]
        if owner >= 0 and owner in chosen:
            assert (some.ids[some.parent[new]] == whole.ids[owner]).all()
        else:
            assert some.parent[new] == -1


@given(linked(), linked())
def test_joined_objects_keep_their_links(a, b):
    both = Objects.concatenate([cells(a), cells(b, 0.5)])
    back = [both.take(np.arange(len(a))), both.take(np.arange(len(a), len(a) + len(b)))]
    for part, parent in zip(back, (a, b), strict=True):
        assert part.parent.tolist() == list(parent)


def test_parts_without_links_join_those_with():
    plain = Objects.from_polygons(
        [shapely.box(0, 0, 1, 1)], classes=("cell", "nucleus"), ids=np.zeros((1, 2), np.uint64),
        class_index=np.zeros(1, np.uint8), score=np.ones(1, np.float32),
    )  # fmt: skip
    assert plain.parent is None
    assert Objects.concatenate([plain, plain]).parent is None
    assert Objects.concatenate([plain, cells([-1, 0])]).parent.tolist() == [-1, -1, 1]


def test_parts_of_other_classes_do_not_join():
    with pytest.raises(ValueError, match="differ"):
        Objects.concatenate([cells([-1]), Objects.empty(("nucleus",))])
