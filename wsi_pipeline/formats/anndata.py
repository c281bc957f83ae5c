"""Write AnnData (.h5ad), for scanpy and squidpy: the measurements as a matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import arranged
from wsi_pipeline.formats._geojson_render import uuid_text
from wsi_pipeline.formats._optional import optional

__all__ = ["id_texts", "to_anndata", "write_h5ad"]


def id_texts(objects: Objects) -> list[str]:
    """Return the ids (n,) as text."""
    return uuid_text(objects.ids).reshape(-1).view("S36").astype(str).tolist()


def to_anndata(objects: Objects, provenance: Mapping[str, Any] | None = None) -> Any:
    """Return objects as an `anndata.AnnData` with n rows.

    - X: the measurements, float32 (n, m), NaN where they do not apply; `var_names` are their names
    - obs: `class`, `score` and, where objects have parents, `parent_id`, empty without one; its
      index is the id
    - obsm["spatial"]: x and y of the centroids, level-0 pixels
    - uns["wsiseg"]: the provenance as JSON text

    Raises
    ------
    UsageError
        anndata is not installed
    """
    anndata = optional("anndata", "AnnData", "anndata")
    pandas = optional("pandas", "AnnData", "anndata")
    ids = id_texts(objects)
    names = np.array(objects.classes, object)[objects.class_index]
    columns = {
        "class": pandas.Categorical(names, categories=list(objects.classes)),
        "score": objects.score,
    }
    if objects.parent is not None:
        # The last entry serves the parent −1.
        columns["parent_id"] = np.array([*ids, ""], object)[objects.parent]
    middle = shapely.centroid(objects.polygons())
    measured = [*objects.features.values()]
    matrix = np.stack(measured, 1) if measured else np.zeros((len(objects), 0), np.float32)
    return anndata.AnnData(
        X=matrix,
        obs=pandas.DataFrame(columns, index=pandas.Index(ids, dtype=object)),
        var=pandas.DataFrame(index=pandas.Index([*objects.features], dtype=object)),
        obsm={"spatial": np.stack([shapely.get_x(middle), shapely.get_y(middle)], 1)},
        uns={"wsiseg": json.dumps(dict(provenance or {}), ensure_ascii=False)},
    )


def write_h5ad(
    path: Path, objects: Objects, *, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write the table of `to_anndata`; outlines are not in it.

    Raises
    ------
    UsageError
        anndata is not installed
    OutputError
        the file cannot be written
    """
    table = to_anndata(arranged(objects), provenance)
    with part_path(path) as part:
        table.write_h5ad(part, compression="gzip")
