"""Write SpatialData (.zarr), for squidpy and napari-spatialdata: image, outlines and table.

The folder is what spatialdata 0.7 writes (container version 0.2, elements 0.3), written here with
zarr, geopandas and anndata: that library pins a version of Dask, and needs the whole image as one
Dask array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.core.polygons import arranged
from wsi_pipeline.formats._ngff import Level, plan_levels
from wsi_pipeline.formats._optional import optional
from wsi_pipeline.formats.anndata import to_anndata
from wsi_pipeline.formats.ome_zarr import Pixels, write_pixels

__all__ = ["write_spatialdata"]

_CONTAINER, _ELEMENT, _TABLE = "0.2", "0.3", "0.2"
"""Versions of the parts of the format."""
_EXTRA = "SpatialData", "spatialdata"
_CHUNK = 1024


def write_spatialdata(
    path: Path | str,
    objects: Objects,
    *,
    width: int,
    height: int,
    mpp: float,
    scale: float = 1.0,
    provenance: Mapping[str, Any] | None = None,
    pixels: Pixels | None = None,
) -> None:
    """Write objects as SpatialData; the image is written chunk by chunk.

    - shapes: `nuclei` and `cells`, those that the objects have (`objects` for boxes), with class
      and score, indexed by id
    - tables: `table`, as `to_anndata` makes it, which annotates the shapes
    - images: `slide`, a pyramid, with `pixels` only
    - coordinate systems: `global` is level-0 pixels, `um` is µm

    Parameters
    ----------
    path
        the folder to write; it must not exist
    width, height
        size of the slide in level-0 pixels
    mpp
        µm per level-0 pixel
    scale
        level-0 pixels per pixel of the image
    provenance
        what a run states of slide and model
    pixels
        reads the slide

    Raises
    ------
    UsageError
        anndata or geopandas is not installed
    OutputError
        `path` exists or cannot be written
    """
    path = Path(path)
    for module in ("geopandas", "anndata"):
        optional(module, *_EXTRA)
    if path.exists():
        raise OutputError(f"{path} exists; remove it or choose another name")
    objects = arranged(objects)
    regions = _regions(objects)
    with part_path(path) as part:
        about = {
            "version": _CONTAINER,
            "spatialdata_software_version": f"wsiseg {version('wsiseg')}",
        }
        root = zarr.create_group(part, zarr_format=3, attributes={"spatialdata_attrs": about})
        if pixels is not None:
            levels = list(plan_levels(width, height, scale, _CHUNK))
            _write_image(root.create_group("images"), levels, mpp, pixels)
        shapes = root.create_group("shapes")
        for name in dict.fromkeys(regions):
            _write_shapes(shapes, part, name, objects.take(regions == name), mpp)
        _write_table(root.create_group("tables"), objects, regions, provenance)


def _regions(objects: Objects) -> NDArray[np.object_]:
    """Return the name of the shapes to which each object belongs (n,)."""
    if any(name.startswith("Box: ") for name in objects.features):
        return np.full(len(objects), "objects", object)
    whole = is_cell(objects)
    if objects.parent is None and set(objects.classes) == {CELL_CLASS}:
        whole[:] = True
    return np.where(whole, "cells", "nuclei").astype(object)


def _axes(names: str) -> list[dict[str, str]]:
    kinds = {"c": {"type": "channel"}}
    space = {"type": "space", "unit": "unit"}
    return [{"name": name, **kinds.get(name, space)} for name in names]


def _transformations(names: str, scale: float, mpp: float) -> list[dict[str, Any]]:
    """Return the maps from an element to both coordinate systems; `scale` in level-0 pixels."""
    found = []
    for system, factor in (("global", scale), ("um", scale * mpp)):
        factors = [1.0 if name == "c" else float(factor) for name in names]
        kind = {"type": "scale", "scale": factors} if factor != 1 else {"type": "identity"}
        ends = {
            "input": {"name": names, "axes": _axes(names)},
            "output": {"name": system, "axes": _axes(names)},
        }
        found.append(kind | ends)
    return found


def _write_image(images: zarr.Group, levels: Sequence[Level], mpp: float, pixels: Pixels) -> None:
    """Write the slide's pixels with their pyramid."""
    first = levels[0].factor
    steps = [level.factor / first for level in levels]
    about = {
        "version": "0.5-dev-spatialdata",
        "omero": {"channels": [{"label": label} for label in "rgb"]},
        "multiscales": [
            {
                "name": "/images/slide",
                "axes": [{k: v for k, v in axis.items() if k != "unit"} for axis in _axes("cyx")],
                "datasets": [
                    {
                        "path": level.path,
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [1.0, step, step]}
                        ],
                    }
                    for level, step in zip(levels, steps, strict=True)
                ],
                "coordinateTransformations": _transformations("cyx", first, mpp),
            }
        ],
    }
    attributes = {"ome": about, "spatialdata_attrs": {"version": _ELEMENT}}
    group = images.create_group("slide", attributes=attributes)
    for level in levels:
        write_pixels(group, pixels, level, _CHUNK)


def _write_shapes(shapes: zarr.Group, part: Path, name: str, objects: Objects, mpp: float) -> None:
    """Write the outlines of some objects."""
    shapes.create_group(
        name,
        attributes={
            "encoding-type": "ngff:shapes",
            "axes": ["x", "y"],
            "coordinateTransformations": _transformations("xy", 1.0, mpp),
            "spatialdata_attrs": {"version": _ELEMENT},
        },
    )
    frame = objects.to_geopandas()[["class", "score", "geometry"]]
    frame.to_parquet(part / "shapes" / name / "shapes.parquet")


def _write_table(
    tables: zarr.Group, objects: Objects, regions: NDArray[np.object_],
    provenance: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    """Write the measurements, each row with its region and the id of its outline there."""
    pandas = optional("pandas", *_EXTRA)
    anndata = optional("anndata", *_EXTRA)
    table = to_anndata(objects, provenance)
    names = list(dict.fromkeys(regions))
    table.obs["region"] = pandas.Categorical(regions, categories=names)
    table.obs["instance_id"] = table.obs.index.to_numpy()
    keys = {"region": names, "region_key": "region", "instance_key": "instance_id"}
    table.uns["spatialdata_attrs"] = keys
    with anndata.settings.override(auto_shard_zarr_v3=False):
        anndata.io.write_elem(tables, "table", table)
    tables["table"].attrs.update(
        {"spatialdata-encoding-type": "ngff:regions_table", **keys, "version": _TABLE}
    )
