"""Read OME-Zarr images: Zarr v2 and v3 (OME-NGFF 0.4 and 0.5), one or several in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.core.sample_bits import scale_samples
from wsi_pipeline.slides.levels import fit_levels
from wsi_pipeline.slides.readers import (
    MAX_TILE_PX,
    Choice,
    Header,
    Refusal,
    check_size,
    choose_number,
)
from wsi_pipeline.slides.tiff_colour import refuse_dark_range, rgb_order
from wsi_pipeline.slides.tiff_pixel_size import unit_of

__all__ = ["OmeZarrReader", "is_ome_zarr"]

FIRST_AXES = "tczyx"
"""Axes of the versions 0.1 and 0.2, which do not state them."""
MAX_CHUNKS = 2**22
"""Most chunks of an array: each of them is searched for when the image is opened."""
METADATA = (".zattrs", ".zgroup", "zarr.json")


def is_ome_zarr(path: Path) -> bool:
    """Return whether a folder holds Zarr metadata."""
    return path.is_dir() and any((path / name).is_file() for name in METADATA)


class OmeZarrReader:
    """Reads an OME-Zarr image, with its pyramid.

    Raises
    ------
    Refusal
        the folder is no OME-Zarr image, or not RGB
    """

    name = "ome-zarr"

    def __init__(self, path: Path, choice: Choice = Choice()) -> None:  # noqa: B008 (it is frozen)
        if not is_ome_zarr(path):
            raise Refusal("not an OME-Zarr folder")
        try:
            self._describe(path, choice)
        except Exception as error:
            raise Refusal(one_line(error)) from error

    def _describe(self, path: Path, choice: Choice) -> None:
        group, about, which = _chosen(zarr.open_group(path, mode="r"), choice.series)
        axes = [str(a["name"] if isinstance(a, dict) else a).lower() for a in about["axes"]]
        datasets, arrays, missing = _levels(group, about, axes)
        if len(axes) != arrays[0].ndim or not {"x", "y"} <= set(axes):
            raise Refusal(f"axes {''.join(axes)} are not those of its array {arrays[0].shape}")
        self._axes = axes
        self._where, notes = self._planes(arrays[0], choice)
        sizes = [_size(axes, array) for array in arrays]
        _check_claims(sizes, arrays)
        pyramid = fit_levels(sizes)
        self._arrays = [arrays[number] for number in pyramid.kept]
        self._bare = [_with_glass(array) for array in self._arrays]
        self._order = (
            _order(about) if axes.count("c") and _size_of("c", axes, arrays[0]) == 3 else None
        )
        if self._order is not None:
            notes += ("its channels are put in the order red, green, blue, as it states them",)
        mpp, more_notes = _pixel_size(about, datasets[0], axes)
        self.header = Header(
            vendor="ome-zarr",
            levels=pyramid.levels,
            bounds=Box(0, 0, *sizes[0]),
            mpp=mpp,
            notes=(
                *which,
                *notes,
                *missing,
                *pyramid.notes,
                *more_notes,
                *_missing_chunks(arrays[0]),
            ),
            plane=self._where["z"],
            time=self._where["t"],
        )
        self._bits = _check_samples(arrays[0], about)
        if self._bits == 16:
            level = self.header.levels[-1]
            side = min(1024, level.width), min(1024, level.height)
            refuse_dark_range(int(self._stored(len(pyramid.levels) - 1, Box(0, 0, *side)).max()),
                              self._bits)  # fmt: skip

    def _planes(self, array: Any, choice: Choice) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the index of each axis but x and y, and notes on what is not read."""
        where: dict[str, Any] = {}
        notes: list[str] = []
        counts = dict(zip(self._axes, array.shape, strict=True))
        for axis, what, wanted in (
            ("z", "focal plane", choice.plane), ("t", "time point", choice.time),
        ):  # fmt: skip
            chosen = choose_number(wanted, counts.get(axis, 1), what)
            where[axis] = chosen.index
            notes += chosen.notes
        for axis, count in counts.items():
            if axis == "c":
                if count not in (1, 3):
                    raise Refusal(f"{count} channels are not an RGB image")
                where[axis] = slice(None)
            elif axis not in "xyzt":
                where[axis] = 0
                notes += [f"{axis} 0 of {count} is read"] * (count > 1)
        return where, tuple(notes)

    def _stored(self, level: int, box: Box) -> NDArray[Any]:
        """Return the samples (h, w, channels) of a box."""
        box_of = {"x": slice(box.x0, box.x1), "y": slice(box.y0, box.y1)}
        index = tuple(box_of.get(axis, self._where.get(axis)) for axis in self._axes)
        pixels = self._in_order(self._arrays[level][index])
        bare = self._bare[level]
        if bare is not None:  # where no channel was written, the two differ in all of them
            glass = self._in_order(bare[index])
            pixels = np.where((glass != pixels).all(axis=2, keepdims=True), glass, pixels)
        return pixels if self._order is None else pixels[..., self._order]

    def _in_order(self, pixels: Any) -> NDArray[Any]:
        """Return samples with the axes of the array as (h, w, channels)."""
        pixels = np.asarray(pixels)
        left = [axis for axis in self._axes if axis in "xyc"]
        if "c" not in left:
            pixels, left = pixels[..., None], [*left, "c"]
        return pixels.transpose([left.index(axis) for axis in "yxc"])

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return the pixels (h, w, 3) of a box of the level."""
        pixels = self._stored(level, box)
        if pixels.dtype != np.uint8:
            pixels = scale_samples(pixels, self._bits)
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels)

    def tile(self, level: int) -> tuple[int, int]:
        """Return width and height of a chunk."""
        chunks = dict(zip(self._axes, self._arrays[level].chunks, strict=True))
        return int(chunks["x"]), int(chunks["y"])

    def close(self) -> None:
        """Do nothing: chunks are opened one by one."""


def _chosen(root: Any, wanted: int | None) -> tuple[Any, Mapping[str, Any], tuple[str, ...]]:
    """Return group and metadata of the image to read, and a note where there are several."""
    images = _images(root)
    if not images:
        plate = "; it is a plate, give the folder of a well or field" * ("plate" in root.attrs)
        raise Refusal(f"its metadata has no multiscales{plate}")
    number = wanted or 0
    if not 0 <= number < len(images):
        raise Refusal(f"series {number} does not exist; the folder has {len(images)}, from 0 on")
    more = "; --series chooses another" if wanted is None else ""
    note = f"series {number} of {len(images)} is read{more}"
    return (*images[number], (note,) * (len(images) > 1))


def _images(root: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """Return the images of a folder: its own, or those of its numbered groups."""

    def own(group: Any) -> list[tuple[Any, Mapping[str, Any]]]:
        attributes = dict(group.attrs)
        attributes = {**attributes, **(attributes.get("ome") or {})}
        omero = attributes.get("omero") or {}
        return [
            (group, {"axes": FIRST_AXES, **about, "omero": omero})
            for about in attributes.get("multiscales") or []
        ]

    if images := own(root):
        return images
    numbered = sorted((name for name, _ in root.groups() if name.isdecimal()), key=int)
    return [image for name in numbered for image in own(root[name])]


def _levels(
    group: Any, about: Mapping[str, Any], axes: list[str]
) -> tuple[list[Mapping[str, Any]], list[Any], tuple[str, ...]]:
    """Return datasets and arrays of an image, the largest first, and notes on those not there."""
    found, missing = [], []
    for number, dataset in enumerate(about.get("datasets") or []):
        path = _inside(str(dataset["path"]))
        if path not in group and number:
            missing.append(f"level {path!r} of its metadata is not in the folder")
        else:
            found.append((dataset, _array(group, path)))
    if not found:
        raise Refusal("its metadata names no datasets")
    if all(array.ndim == len(axes) for _, array in found):
        found.sort(key=lambda pair: -_size(axes, pair[1])[0])
    return [dataset for dataset, _ in found], [array for _, array in found], tuple(missing)


def _check_claims(sizes: list[tuple[int, int]], arrays: list[Any]) -> None:
    """Refuse arrays that are larger than any slide, or have too many chunks to look for."""
    for size, array in zip(sizes, arrays, strict=True):
        check_size(*size)
        if array.nchunks > MAX_CHUNKS:
            raise Refusal(f"an array has {array.nchunks} chunks, more than {MAX_CHUNKS}")


def _missing_chunks(array: Any) -> tuple[str, ...]:
    """Return a note on the chunks that were never written, or that were lost."""
    missing = array.nchunks - array.nchunks_initialized
    if not missing:
        return ()
    return (f"{missing} of {array.nchunks} chunks are not there, and taken as empty glass",)


def _with_glass(array: Any) -> Any:
    """Return an array whose missing chunks are white; None where all chunks are there.

    A chunk that was not written has the array's fill value, mostly 0: a black square, which a slide
    in bright field does not have.
    """
    if array.nchunks_initialized == array.nchunks or array.dtype.kind != "u":
        return None
    plain: Any = getattr(array, "async_array", None) or array._async_array  # before zarr 3.1
    white = array.dtype.type(np.iinfo(array.dtype).max)
    metadata = replace(plain.metadata, fill_value=white)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=plain.store_path))


def _inside(path: str) -> str:
    """Return the path of a dataset, which may not lie outside the folder."""
    if path.startswith("/") or ".." in path.split("/"):
        raise Refusal(f"dataset {path!r} lies outside the folder")
    return path


def _array(group: Any, path: str) -> Any:
    """Return an array of the group."""
    if path not in group:
        raise Refusal(f"dataset {path!r} is not in the folder; copy it again")
    array = group[path]
    if not hasattr(array, "chunks"):
        raise Refusal(f"dataset {path!r} is no array")
    if np.prod([int(c) for c in array.chunks]) > 4 * MAX_TILE_PX:
        raise Refusal(f"its chunks {array.chunks} are too large to decode at once")
    return array


def _size(axes: list[str], array: Any) -> tuple[int, int]:
    return _size_of("x", axes, array), _size_of("y", axes, array)


def _size_of(axis: str, axes: list[str], array: Any) -> int:
    return int(array.shape[axes.index(axis)])


def _order(about: Mapping[str, Any]) -> list[int] | None:
    """Return where red, green and blue are among three channels that are in another order."""
    channels = [c for c in about["omero"].get("channels") or [] if isinstance(c, dict)]
    order = rgb_order(*([str(c.get(key)) for c in channels] for key in ("label", "color")))
    return None if order == (0, 1, 2) else list(order)


def _window_top(about: Mapping[str, Any]) -> int:
    """Return the largest possible sample that the channels state, or 0."""
    channels = about["omero"].get("channels") or []
    windows = [c.get("window") or {} for c in channels if isinstance(c, dict)]
    return max((int(window.get("max") or 0) for window in windows), default=0)


def _check_samples(array: Any, about: Mapping[str, Any]) -> int:
    """Return the significant bits of the samples; refuse all but 8 and 16 bits."""
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise Refusal(f"{array.dtype} samples; convert the image to RGB with 8 bits per sample")
    stored = 8 * int(array.dtype.itemsize)
    top = _window_top(about)
    return min(stored, top.bit_length()) if stored == 16 and top else stored


def _pixel_size(
    about: Mapping[str, Any], dataset: Mapping[str, Any], axes: list[str]
) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return µm per pixel of the largest array: scales of image and dataset, and the axes' unit."""
    sizes = []
    for axis in "xy":
        entry = about["axes"][axes.index(axis)]
        stated = entry.get("unit") if isinstance(entry, dict) else None
        scales = [
            one.get("scale")
            for holder in (about, dataset)
            for one in holder.get("coordinateTransformations") or []
            if one.get("type") == "scale"
        ]
        unit = unit_of(str(stated)) if stated else None
        if unit is None:
            return None, ((f"unit {stated} of axis {axis} is no length",) if stated else ())
        if not scales or any(not isinstance(s, list) or len(s) != len(axes) for s in scales):
            return None, ("its metadata state no scale of each axis, so no pixel size",)
        sizes.append(math.prod(float(scale[axes.index(axis)]) for scale in scales) * unit)
    return Mpp(sizes[0], sizes[1], "metadata"), ()
