"""Objects: nuclei and cells as arrays, which all stages after the network exchange.

One array per column, polygons in the ragged layout of GeoArrow: a million nuclei are a dozen
arrays, not a million Python objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import UsageError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

__all__ = ["CELL_CLASS", "CYTOPLASM", "Objects", "is_cell"]

CELL_CLASS, CYTOPLASM = "cell", "cytoplasm"
"""The classes of whole cells, in all models that find cells, and of cytoplasm without nucleus."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The n nuclei or cells of a slide, or of a part of it.

    Coordinates are level-0 pixel edges: pixel i covers [i, i + 1). Object i owns the rings
    ``object_offsets[i]:object_offsets[i + 1]``, its shell first and then its holes. Ring r owns
    the vertices ``ring_offsets[r]:ring_offsets[r + 1]``; its first vertex is repeated at its end.

    Attributes
    ----------
    classes
        names of the classes, indexed by `class_index`
    ids
        uint64 (n, 2): high and low half of a UUID, the same in every run
    class_index
        uint8 (n,)
    score
        float32 (n,), 0 to 1
    coords
        float64 (vertices, 2), x and y, on a grid of 0.01 px
    ring_offsets
        int64 (rings + 1,)
    object_offsets
        int64 (n + 1,)
    features
        measurement name with its unit → float32 (n,), NaN where there is no value
    parent
        int64 (n,): index of the cell that holds each nucleus, −1 where there is none; None where
        no object holds another
    valid
        whether every polygon is known to be valid, to lie on the 0.01 px grid and to have an area
        of at least 1 px²; set by `wsi_pipeline.core.polygons.make_valid`

    Examples
    --------
    >>> square = shapely.box(0, 0, 10, 10)
    >>> objects = Objects.from_polygons(
    ...     [square, square],
    ...     classes=("nucleus", "cell"),
    ...     ids=np.array([[0, 1], [0, 2]], np.uint64),
    ...     class_index=np.array([0, 1], np.uint8),
    ...     score=np.array([0.9, 0.8], np.float32),
    ... )
    >>> len(objects), objects.coords.shape, objects.ring_offsets.tolist()
    (2, (10, 2), [0, 5, 10])
    >>> objects.take(is_cell(objects)).score.tolist()
    [0.800000011920929]
    """

    classes: tuple[str, ...]
    ids: NDArray[np.uint64]
    class_index: NDArray[np.uint8]
    score: NDArray[np.float32]
    coords: NDArray[np.float64]
    ring_offsets: NDArray[np.int64]
    object_offsets: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    parent: NDArray[np.int64] | None = None
    valid: bool = False

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def empty(cls, classes: Sequence[str], features: Sequence[str] = ()) -> Objects:
        """Return no objects, with the given classes and measurement names."""
        return cls(
            classes=tuple(classes),
            ids=np.zeros((0, 2), np.uint64),
            class_index=np.zeros(0, np.uint8),
            score=np.zeros(0, np.float32),
            coords=np.zeros((0, 2), np.float64),
            ring_offsets=np.zeros(1, np.int64),
            object_offsets=np.zeros(1, np.int64),
            features={name: np.zeros(0, np.float32) for name in features},
            valid=True,
        )

    @classmethod
    def from_polygons(
        cls,
        polygons: Sequence[shapely.Polygon] | NDArray[np.object_],
        *,
        classes: Sequence[str],
        ids: NDArray[np.uint64],
        class_index: NDArray[np.uint8],
        score: NDArray[np.float32],
        features: Mapping[str, NDArray[np.float32]] | None = None,
        parent: NDArray[np.int64] | None = None,
    ) -> Objects:
        """Return one object for each shapely polygon (n,); coordinates are rounded to 0.01 px.

        Raises
        ------
        ValueError
            a geometry is not a single polygon
        """
        if len(polygons) == 0:
            return replace(cls.empty(classes, tuple(features or ())), parent=parent)
        kind, coords, offsets = shapely.to_ragged_array(np.asarray(polygons, object))
        if kind != shapely.GeometryType.POLYGON:
            raise ValueError(f"objects are single polygons, not {kind.name}")
        ring_offsets, object_offsets = offsets
        return cls(
            classes=tuple(classes),
            ids=ids,
            class_index=class_index,
            score=score,
            coords=np.round(coords[:, :2], 2),
            ring_offsets=ring_offsets.astype(np.int64),
            object_offsets=object_offsets.astype(np.int64),
            features=dict(features or {}),
            parent=parent,
        )

    def polygons(self) -> NDArray[np.object_]:
        """Return shapely polygons (n,), with their holes."""
        if len(self) == 0:
            return np.zeros(0, object)
        return np.asarray(
            shapely.from_ragged_array(
                shapely.GeometryType.POLYGON,
                self.coords,
                (self.ring_offsets, self.object_offsets),
            )
        )

    def bounds(self) -> NDArray[np.float64]:
        """Return x0, y0, x1, y1 of each object's shell, float64 (n, 4)."""
        if len(self) == 0:
            return np.zeros((0, 4))
        starts = self.ring_offsets[self.object_offsets]
        low = np.minimum.reduceat(self.coords, starts[:-1], axis=0)
        high = np.maximum.reduceat(self.coords, starts[:-1], axis=0)
        return np.hstack([low, high])

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Objects:
        """Return the objects at `index`: a boolean mask (n,), or different indices in any order.

        A nucleus that is taken without its cell has no parent in the result.
        """
        where = np.flatnonzero(index) if index.dtype == np.bool_ else np.asarray(index, np.int64)
        rings, object_offsets = _take_ragged(self.object_offsets, where)
        vertices, ring_offsets = _take_ragged(self.ring_offsets, rings)
        return replace(
            self,
            ids=self.ids[where],
            class_index=self.class_index[where],
            score=self.score[where],
            coords=self.coords[vertices],
            ring_offsets=ring_offsets,
            object_offsets=object_offsets,
            features={name: column[where] for name, column in self.features.items()},
            parent=None if self.parent is None else _followed(self.parent, where),
        )

    def to_geopandas(self) -> GeoDataFrame:
        """Return a `geopandas.GeoDataFrame` with one row per object, indexed by id.

        Columns: class, score, parent_id where objects have parents (None without one), the
        measurements, and geometry in level-0 pixels. `geopandas.read_parquet` gives the same for
        objects.parquet of a run, with the id as a column.

        Raises
        ------
        UsageError
            geopandas is not installed
        """
        try:
            import geopandas
            import pandas
        except ModuleNotFoundError:
            raise UsageError(
                "to_geopandas needs geopandas, which is not installed; "
                "pip install -e '.[geopandas]'"
            ) from None
        halves = self.ids.astype(">u8").tobytes()
        ids = [str(uuid.UUID(bytes=halves[i : i + 16])) for i in range(0, len(halves), 16)]
        names = np.array(self.classes, object)[self.class_index]
        columns = {
            "class": pandas.Categorical(names, categories=list(self.classes)),
            "score": self.score,
        }
        if self.parent is not None:
            # The last entry serves the parent −1.
            columns["parent_id"] = np.array([*ids, None], object)[self.parent]
        return geopandas.GeoDataFrame(
            {**columns, **self.features},
            geometry=self.polygons(),
            index=pandas.Index(ids, name="id", dtype=object),
        )

    @staticmethod
    def concatenate(parts: Sequence[Objects]) -> Objects:
        """Return all objects of one or more `parts`, in order.

        Raises
        ------
        ValueError
            the parts differ in classes or measurements
        """
        first = parts[0]
        parent = None
        if any(p.parent is not None for p in parts):
            start = np.cumsum([0, *(len(p) for p in parts[:-1])])
            linked = [np.full(len(p), -1) if p.parent is None else p.parent for p in parts]
            parent = np.concatenate(
                [np.where(p >= 0, p + s, -1) for p, s in zip(linked, start, strict=True)]
            ).astype(np.int64)
        if any(p.classes != first.classes or set(p.features) != set(first.features) for p in parts):
            raise ValueError("parts differ in classes or measurements")
        return replace(
            first,
            ids=np.concatenate([p.ids for p in parts]),
            class_index=np.concatenate([p.class_index for p in parts]),
            score=np.concatenate([p.score for p in parts]),
            coords=np.concatenate([p.coords for p in parts]),
            ring_offsets=_chain([p.ring_offsets for p in parts]),
            object_offsets=_chain([p.object_offsets for p in parts]),
            features={
                name: np.concatenate([p.features[name] for p in parts]) for name in first.features
            },
            parent=parent,
            valid=all(p.valid for p in parts),
        )


def _take_ragged(
    offsets: NDArray[np.int64], where: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the items in the lists `where`, and the offsets of these lists."""
    counts = offsets[where + 1] - offsets[where]
    taken = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    items = np.arange(taken[-1]) + np.repeat(offsets[where] - taken[:-1], counts)
    return items, taken


def _followed(parent: NDArray[np.int64], where: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each object's parent among the objects `where`, −1 where it has none."""
    place = np.full(len(parent) + 1, -1, np.int64)  # the last entry is for those without
    place[where] = np.arange(len(where))
    return place[parent[where]]


def _chain(offsets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the offsets of ragged arrays that are joined end to end."""
    counts = np.concatenate([np.diff(o) for o in offsets])
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def is_cell(objects: Objects) -> NDArray[np.bool_]:
    """Return which objects are cells, bool (n,): class "cell", or holding a nucleus."""
    names = np.array([name == CELL_CLASS for name in objects.classes], bool)
    cells = names[objects.class_index] if len(objects) else np.zeros(0, bool)
    if objects.parent is not None:
        cells[objects.parent[objects.parent >= 0]] = True
    return cells
