"""Laws of reading parts of objects.parquet: they are the same parts of the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats import geoparquet
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.formats.parquet_rows import read_boxes, read_rows


@pytest.fixture(params=[False, True], ids=["nuclei", "cells"])
def path(request, tmp_path, monkeypatch):
    """A file of 60 objects in row groups of 7."""
    monkeypatch.setattr(geoparquet, "ROW_GROUP", 7)
    rng = np.random.default_rng(1)
    x, y, r = rng.uniform(50, 900, 60), rng.uniform(50, 900, 60), rng.uniform(3, 20, 60)
    objects = Objects.from_polygons(
        shapely.buffer(shapely.points(x, y), r, quad_segs=4), classes=("cell", "nucleus"),
        ids=rng.integers(0, 2**63, (60, 2)).astype(np.uint64),
        class_index=np.repeat([0, 1], 30).astype(np.uint8), score=rng.random(60, np.float32),
        features={"a": rng.random(60, np.float32), "b": rng.random(60, np.float32)},
    )  # fmt: skip
    if request.param:
        parent = np.concatenate([np.full(30, -1), rng.integers(-1, 30, 30)])
        objects = replace(objects, parent=parent)
    with ParquetWriter(tmp_path / "objects.parquet") as writer:
        for i in range(0, 60, 7):  # a parent may be in another group
            part = np.arange(i, min(i + 7, 60))
            writer.write(replace(objects.take(part), parent=None) if not request.param else
                         objects.take(part))  # fmt: skip
    return tmp_path / "objects.parquet"


def test_boxes_are_the_bounds_of_the_outlines(path):
    whole, light = read_parquet(path), read_boxes(path)
    np.testing.assert_array_equal(light.bounds(), whole.bounds())
    for name in ("ids", "class_index", "score"):
        np.testing.assert_array_equal(getattr(light, name), getattr(whole, name))
    assert light.classes == whole.classes
    assert (light.parent is None) == (whole.parent is None)
    if whole.parent is not None:
        np.testing.assert_array_equal(light.parent, whole.parent)
    for name, column in whole.features.items():
        np.testing.assert_array_equal(light.features[name], column)
    assert list(read_boxes(path, ["b", "unknown"]).features) == ["b"]


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_the_whole(path, seed):
    whole, light = read_parquet(path), read_boxes(path)
    rows = np.random.default_rng(seed).permutation(60)[: 5 * seed]
    found, wanted = read_rows(path, rows, light.parent), whole.take(rows)
    assert len(found) == len(rows)
    for name in ("ids", "class_index", "score", "coords", "ring_offsets", "object_offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    if wanted.parent is not None and len(rows):
        np.testing.assert_array_equal(found.parent, wanted.parent)
    for name, column in wanted.features.items():
        np.testing.assert_array_equal(found.features[name], column)


def test_a_damaged_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError):
        read_boxes(path)
    with pytest.raises(DataError):
        read_rows(path, np.arange(2), None)
