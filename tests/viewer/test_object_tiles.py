"""Objects in tiles: each once, outlines as they were, measurements joined in cells."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.viewer.object_tiles import RING_END, sort_into_tiles


def read_tile(data):
    """Unit, corner, vertices (n, 2) in level-0 pixels, and the object of each."""
    count, unit, x, y = struct.unpack_from("<Ifff", data)
    vertices = np.frombuffer(data, [("xy", "<i2", 2), ("object", "<u4")], offset=16)
    assert len(vertices) == count
    return unit, vertices["xy"] * float(unit) + (x, y), vertices["object"]


def test_every_object_is_in_the_tile_of_its_centre(cells):
    held = sort_into_tiles(cells, 5000, 4000)
    assert held.offsets[0] == 0 and held.offsets[-1] == len(cells)
    assert (np.diff(held.offsets.astype(int)) >= 0).all()
    tile = np.repeat(np.arange(held.columns * held.rows), np.diff(held.offsets.astype(int)))
    wanted = held.centres // held.tile_px
    assert (tile == wanted[:, 1] * held.columns + wanted[:, 0]).all()
    assert {tuple(i) for i in held.objects.ids.tolist()} == {tuple(i) for i in cells.ids.tolist()}


def test_a_tile_has_the_outlines_of_its_objects(cells):
    held = sort_into_tiles(cells, 5000, 4000)
    seen = 0
    for index in range(held.columns * held.rows):
        unit, points, owner = read_tile(held.tile(index))
        first, last = held.offsets[index], held.offsets[index + 1]
        part = held.objects.take(np.arange(first, last))
        assert np.abs(points - part.coords).max(initial=0) <= unit
        ends = owner == RING_END
        assert (np.flatnonzero(ends) == part.ring_offsets[1:] - 1).all()
        assert set(owner[~ends]) == set(range(last - first))
        seen += int(last - first)
    assert seen == len(cells)


def test_far_outlines_are_closed_and_short(cells):
    held = sort_into_tiles(cells, 5000, 4000)
    index = int(np.argmax(np.diff(held.offsets.astype(int))))
    _, near, _ = read_tile(held.tile(index))
    _, points, owner = read_tile(held.tile(index, far=True))
    ends = np.flatnonzero(owner == RING_END)
    starts = np.concatenate([[0], ends[:-1] + 1])
    assert np.abs(points[starts] - points[ends]).max() == 0
    assert (ends - starts >= 3).all() and len(points) < len(near) / 2


@given(st.permutations(range(20)), st.integers(0, 20))
def test_ids_lead_to_rows(order, missing):
    empty = Objects.empty(("nucleus",))
    ids = np.stack([np.array(order) // 3, np.array(order)], 1).astype(np.uint64)
    import shapely

    objects = Objects.from_polygons(
        [shapely.box(k, k, k + 5, k + 5) for k in range(20)],
        classes=empty.classes, ids=ids, class_index=np.zeros(20, np.uint8),
        score=np.ones(20, np.float32),
    )  # fmt: skip
    held = sort_into_tiles(objects, 500, 400)
    assert (held.rows_of(held.objects.ids) == np.arange(20)).all()
    strange = np.array([[missing, 1000 + missing]], np.uint64)
    assert held.rows_of(strange).tolist() == [-1]


def test_cells_and_nuclei_share_their_measurements(cells):
    held = sort_into_tiles(cells, 5000, 4000)
    objects = held.objects
    area, ratio = held.column("Nucleus: Area µm^2"), held.column("Nucleus/Cell area ratio")
    probability = held.column("Abnormal: probability")
    for cell in np.flatnonzero(objects.parent < 0):
        nuclei = np.flatnonzero(objects.parent == cell)
        own = objects.features["Nucleus: Area µm^2"][nuclei]
        assert area[cell] == pytest.approx(own.sum())
        assert probability[cell] == pytest.approx(0.3)
        assert ratio[nuclei] == pytest.approx(ratio[cell])
    assert np.isfinite(area).all()


def test_no_objects_are_no_error():
    held = sort_into_tiles(Objects.empty(("nucleus",)), 300, 200)
    assert read_tile(held.tile(0))[1].shape == (0, 2)
    assert held.rows_of(np.zeros((1, 2), np.uint64)).tolist() == [-1]
