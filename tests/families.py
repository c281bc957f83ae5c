"""Cells with their nuclei as `Objects`, for the tests of whatever handles both."""

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects

CLASSES = ("cell", "nucleus", "HSIL")
FIELDS = ("ids", "class_index", "score", "coords", "ring_offsets", "object_offsets", "parent")


def linked(shapes, kinds, parent, *, score=None, features=None) -> Objects:
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=CLASSES,
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2) + np.uint64(2**63 + 11),
        class_index=np.array([CLASSES.index(k) for k in kinds], np.uint8),
        score=np.asarray(np.linspace(0.1, 1, n) if score is None else score, np.float32),
        features=features,
        parent=np.asarray(parent, np.int64),
    )


def families(seed: int, n: int = 12) -> Objects:
    """Overlapping cells with 0 to 3 nuclei right after them, and nuclei without a cell."""
    rng = np.random.default_rng(seed)
    shapes, kinds, parent = [], [], []
    for x, y in rng.uniform(0, 200, (n, 2)):
        count = int(rng.integers(0, 4))
        cell = -1
        if rng.random() < 0.8:
            cell = len(shapes)
            shapes.append(shapely.Point(x, y).buffer(rng.uniform(30, 50), quad_segs=5))
            kinds.append("cell")
            parent.append(-1)
        for k in range(count):
            nucleus = shapely.Point(x - 20 + 20 * k, y).buffer(rng.uniform(4, 8), quad_segs=4)
            hole = shapely.Point(x - 20 + 20 * k, y).buffer(2, quad_segs=2)
            shapes.append(nucleus.difference(hole) if rng.random() < 0.2 else nucleus)
            kinds.append(str(rng.choice(["nucleus", "HSIL"])))
            parent.append(cell)
    size = len(shapes)
    inner = np.array([k != "cell" for k in kinds])
    column = rng.lognormal(0, 2, size).astype(np.float32)
    return linked(
        shapes, kinds, parent, score=rng.random(size),
        features={
            "Nucleus: Area µm^2": np.where(inner, column, np.nan).astype(np.float32),
            "Cell: Area µm^2": np.where(inner, np.nan, column).astype(np.float32),
            "contrast": np.where(rng.random(size) < 0.7, column, np.nan).astype(np.float32),
        },
    )  # fmt: skip


def assert_same(a: Objects, b: Objects) -> None:
    assert a.classes == b.classes and list(a.features) == list(b.features)
    for name in FIELDS:
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name, column in a.features.items():
        assert np.array_equal(column, b.features[name], equal_nan=True), name
