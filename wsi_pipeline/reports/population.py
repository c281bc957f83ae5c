"""Measurements of a run against each other, and the objects inside a gate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.json_files import read_json
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.reports.plot import Plot, plot
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA, OD_MEAN

__all__ = ["Gate", "Population", "default_axes", "measurement", "parse_gate", "population"]

_UNITS = frozenset(("um", "2", "µm", "px"))
_SHORT = {"n/c": NUCLEUS_RATIO, "n:c": NUCLEUS_RATIO, "nc": NUCLEUS_RATIO, "od": OD_MEAN}


@dataclass(frozen=True, eq=False)
class Gate:
    """A polygon in the units of two measurements.

    Attributes
    ----------
    vertices
        float64 (k, 2)
    x, y
        names of the measurements, where the gate's file states them
    """

    vertices: NDArray[np.float64]
    x: str | None = None
    y: str | None = None

    def holds(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which points lie inside or on the border, bool (n,)."""
        area = shapely.Polygon(self.vertices)
        shapely.prepare(area)
        inside: NDArray[np.bool_] = shapely.intersects_xy(area, x, y)
        return inside


@dataclass(frozen=True, eq=False)
class Population:
    """Two measurements of the objects of a run.

    Attributes
    ----------
    names
        measurements of x and y
    rows
        int64 (n,): objects that have both, as positions in the run
    x, y
        float64 (n,)
    """

    names: tuple[str, str]
    rows: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def plot(self, gate: Gate | None = None) -> Plot:
        """Return the picture, with the gate if there is one."""
        return plot(self.x, self.y, self.names, None if gate is None else gate.vertices)

    def inside(self, gate: Gate) -> NDArray[np.int64]:
        """Return the objects inside the gate, as positions in the run."""
        return self.rows[gate.holds(self.x, self.y)]


def default_axes(names: Sequence[str]) -> tuple[str, str] | None:
    """Return nuclear area and N/C, without cells area and optical density, if a run has them."""
    for y in (NUCLEUS_RATIO, OD_MEAN):
        if NUCLEUS_AREA in names and y in names:
            return NUCLEUS_AREA, y
    return None


def measurement(text: str, names: Sequence[str]) -> str:
    """Return the measurement that `text` names: exactly, or by its words without the unit.

    Raises
    ------
    UsageError
        none, or several, of `names` fit; the message lists them

    Examples
    --------
    >>> names = ["Nucleus: Area µm^2", "Nucleus/Cell area ratio", "Cell: Area µm^2"]
    >>> measurement("nucleus area", names), measurement("N/C", names)
    ('Nucleus: Area µm^2', 'Nucleus/Cell area ratio')
    """
    if text in names:
        return text
    if (short := _SHORT.get(text.strip().lower())) in names:
        return str(short)
    words = _words(text)
    same = [name for name in names if _words(name) == words]
    found = same or [name for name in names if words and words <= _words(name)]
    if len(found) != 1:
        listed = ", ".join(found or names)
        which = "fits several measurements" if found else "is no measurement of this run"
        raise UsageError(f"{text!r} {which}; give one of: {listed}")
    return found[0]


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", name.lower().replace("µ", "u").replace("μ", "u"))) - _UNITS


def population(
    objects: Objects, names: tuple[str, str], faulty: NDArray[np.bool_] | None = None
) -> Population:
    """Return two measurements of the objects that have both.

    Where one belongs to cells and the other to nuclei, the objects are cells, each with the value
    of its largest nucleus.

    Parameters
    ----------
    objects
        of a run; outlines are not used
    names
        measurements of x and y
    faulty
        bool (n,): cells that do not count, see `check_cells`; they have no N/C ratio
    """
    x, y = (objects.features[name].astype(np.float64) for name in names)
    both = np.isfinite(x) & np.isfinite(y)
    if not both.any() and objects.parent is not None:
        largest = _largest_nucleus(objects)
        x, y = (_of_cells(column, largest) for column in (x, y))
        both = np.isfinite(x) & np.isfinite(y)
    if faulty is not None and NUCLEUS_RATIO in names:
        both &= ~faulty
    rows = np.flatnonzero(both)
    return Population(names, rows, x[rows], y[rows])


def _of_cells(column: NDArray[np.float64], largest: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a column for cells: their own values, else those of their largest nuclei."""
    theirs = np.where(largest >= 0, column[largest], np.nan)
    return np.where(largest >= 0, np.where(np.isfinite(column), column, theirs), np.nan)


def _largest_nucleus(objects: Objects) -> NDArray[np.int64]:
    """Return the position of each cell's largest nucleus, −1 where there is none, int64 (n,)."""
    assert objects.parent is not None
    areas = objects.features.get(NUCLEUS_AREA, np.zeros(len(objects), np.float32))
    nuclei = np.flatnonzero(objects.parent >= 0)
    nuclei = nuclei[np.argsort(np.nan_to_num(areas[nuclei], nan=-1.0), kind="stable")]
    largest = np.full(len(objects), -1, np.int64)
    largest[objects.parent[nuclei]] = nuclei  # the last one, the largest, stays
    return largest


def parse_gate(text: str) -> Gate:
    """Return the gate of "x0,y0,x1,y1", or of a JSON file.

    The file holds a list of [x, y], or {"x": name, "y": name, "polygon": [[x, y], …]}.

    Raises
    ------
    UsageError
        `text` is neither four numbers nor a file
    DataError
        the file holds no polygon

    Examples
    --------
    >>> parse_gate("50,0.2,300,1").vertices.tolist()
    [[50.0, 0.2], [300.0, 0.2], [300.0, 1.0], [50.0, 1.0]]
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return _gate_of_file(Path(text))
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise UsageError(f"--gate {text!r} is not x0,y0,x1,y1; give four numbers or a JSON file")
    (x0, x1), (y0, y1) = sorted(numbers[::2]), sorted(numbers[1::2])
    if x0 == x1 or y0 == y1:
        raise UsageError(f"--gate {text!r} holds no area; give two different corners")
    return Gate(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))


def _gate_of_file(path: Path) -> Gate:
    if not path.is_file():
        raise UsageError(f"--gate {path} does not exist; give x0,y0,x1,y1 or a JSON file")
    try:
        content = read_json(path)
        about = content if isinstance(content, Mapping) else {"polygon": content}
        vertices = np.asarray(about["polygon"], np.float64)
        if vertices.ndim != 2 or vertices.shape[1] != 2 or not np.isfinite(vertices).all():
            raise ValueError("polygon is no list of [x, y]")
        area = shapely.Polygon(vertices)
        if not area.is_valid or not area.area > 0:
            raise ValueError("the polygon crosses itself or has no area")
        names = [about.get(axis) for axis in ("x", "y")]
        if not all(name is None or isinstance(name, str) for name in names):
            raise ValueError("x and y are no names")
    except (OSError, ValueError, KeyError, TypeError, shapely.errors.GEOSException) as error:
        raise DataError(
            f"{path} holds no gate ({one_line(error)}); give "
            '{"x": name, "y": name, "polygon": [[x, y], …]}'
        ) from error
    return Gate(vertices, *names)
