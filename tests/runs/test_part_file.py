"""The file of a finished region: what is written is read again, to the last bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.runs.part_file import part_bytes, read_part

SQUARES = [shapely.box(n, n, n + 5, n + 7) for n in range(3)]


def some_objects(n=3):
    return Objects.from_polygons(
        SQUARES[:n],
        classes=("cell", "nucleus"),
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2),
        class_index=np.ones(n, np.uint8),
        score=np.linspace(0.5, 1, n, dtype=np.float32),
        features={"Nucleus: Area µm^2": np.full(n, np.nan, np.float32),
                  "OD": np.arange(n, dtype=np.float32)},
    )  # fmt: skip


@pytest.mark.parametrize("parent", [None, [-1, 0, 0]])
@pytest.mark.parametrize("count", [0, 3])
def test_a_part_is_read_as_it_was_written(tmp_path, parent, count):
    objects = some_objects(count)
    if parent is not None:
        objects = replace(objects, parent=np.array(parent[:count], np.int64))
    path = tmp_path / "000000.npz"
    path.write_bytes(part_bytes(objects, 2))
    found, oversized = read_part(path)
    assert oversized == 2 and found.classes == objects.classes
    assert list(found.features) == list(objects.features)
    for name in ("ids", "class_index", "score", "coords", "ring_offsets", "object_offsets"):
        assert np.array_equal(getattr(found, name), getattr(objects, name))
    for name, values in objects.features.items():
        assert np.array_equal(found.features[name], values, equal_nan=True)
    if parent is None:
        assert found.parent is None
    else:
        assert np.array_equal(found.parent, objects.parent)


def test_a_part_has_a_version_and_no_pickled_object(tmp_path):
    path = tmp_path / "000000.npz"
    path.write_bytes(part_bytes(some_objects(), 0))
    with np.load(path, allow_pickle=False) as stored:
        header = json.loads(str(stored["header"]))
        assert all(stored[name].dtype.kind in "iufU" for name in stored)
    assert header["schema_version"] == 1
    assert header["features"] == ["Nucleus: Area µm^2", "OD"]
