"""Images without annotations, and points at which a nucleus is known to be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .coco import IMAGE_SUFFIXES, CocoFile, annotation_files, read_coco, read_image, resize_image
from .semantic_data import Sample

__all__ = ["load_unlabelled", "raise_at_points"]

DRAWN = 0.5
"""The teacher draws a nucleus from this probability on."""
SEARCH_UM = 2.0
"""A point is at most this far from the darkest part of its nucleus."""
LEAST_PEAK = 0.1
"""Below this probability the teacher shows nothing from which a region could be grown."""
REACH_UM = 8.0
"""No pixel of a grown region is farther from its point; the radius of a nucleus of 200 µm²."""
DISC_UM = 2.5
"""Radius of the disc that is drawn where the teacher shows nothing: half a nucleus of 40 µm²."""
SURE = 0.9
"""Probability of the nucleus in a region that was raised."""
RING_UM = 3.0
"""Pixels this near to a raised region are not learned: its outline is not known."""


def load_unlabelled(spec: str, *, mpp: float) -> list[Sample]:
    """Load the images of a folder, or of its ``images/``, at `mpp` µm per pixel.

    All their pixels are unknown. A ``boxes.json`` (COCO; each annotation is a ``point``, or the
    centre of its ``bbox``) gives points of nuclei, and the pixel size where `spec` has none.

    Parameters
    ----------
    spec
        ``DIR`` or ``DIR@MPP``

    Raises
    ------
    ValueError
        no such folder, no images, no pixel size, or a file that cannot be read
    """
    stated = annotation_files(spec)[1]
    folder = Path(spec.partition("@")[0])
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with images")
    boxes = folder / "boxes.json"
    marked = read_coco(boxes) if boxes.is_file() else None
    known = {} if marked is None else {image.path.resolve(): image for image in marked.images}
    paths = _images(folder)
    if not paths:
        raise ValueError(
            f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}); give a folder with some"
        )
    mpps = [stated or (known[p].mpp if p in known else None) or _set_mpp(marked) for p in paths]
    if not all(mpps):
        lacking = paths[mpps.index(None)].name
        raise ValueError(f"{folder} states no pixel size for {lacking}; give DIR@MPP")
    size = "–".join(f"{v:.3g}" for v in sorted({min(mpps), max(mpps)}))  # type: ignore[type-var]
    licence = (marked and marked.licence) or "not stated"
    origin = f"{folder.name} (unlabelled; licence: {licence}; {size} µm per px, stated)"

    def load(path: Path, image_mpp: float | None) -> Sample:
        assert image_mpp is not None
        pixels = read_image(path)
        points = np.array([a.point for a in known[path].annotations] if path in known else [])
        image = resize_image(pixels, image_mpp / mpp)
        scale = np.array(image.shape[1::-1]) / pixels.shape[1::-1]
        return Sample(
            image, np.full(image.shape[:2], -1, np.int32), np.zeros(1, np.uint8), folder.name,
            path.name, mpp, origin, (path, image_mpp), points.reshape(-1, 2) * scale,
        )  # fmt: skip

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, paths, mpps))


def _images(folder: Path) -> list[Path]:
    """Return the image files of a folder and of its ``images/``, sorted by name."""
    inside = [*folder.glob("*"), *folder.glob("images/*")]
    return sorted(p.resolve() for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _set_mpp(marked: CocoFile | None) -> float | None:
    """Return the pixel size of the images that the points are for."""
    sizes = {image.mpp for image in marked.images} if marked is not None else set()
    return sizes.pop() if len(sizes) == 1 else None


def raise_at_points(
    probabilities: NDArray[np.uint8], points: NDArray[np.float64], mpp: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Raise a teacher's map where a nucleus is known to be and the teacher draws none.

    With p the sum over the classes, and its maximum m within 2 µm of a point:

    - the teacher draws the nucleus (m ≥ 0.5): nothing is changed;
    - 0.1 ≤ m < 0.5: the region is the part of {p ≥ m / 2} that holds the maximum, up to 8 µm from
      the point;
    - m < 0.1: the region is a disc of radius 2.5 µm around the point.

    In the region p becomes 0.9, in the class that is most probable there. Pixels within 3 µm of
    the region that no nucleus is drawn on are not learned, since its true outline is not known.

    Parameters
    ----------
    probabilities
        uint8 (k, h, w), 255 = certain
    points
        float64 (n, 2), x and y in pixels
    mpp
        µm per pixel

    Returns
    -------
    tuple
        the new map, and bool (h, w), where it is to be learned
    """
    total = probabilities.sum(0, dtype=np.float32) / 255
    raised, unsure = probabilities.astype(np.float32), np.zeros(total.shape, bool)
    rows, cols = np.indices(total.shape)
    for x, y in points - 0.5:  # pixel i has its centre at i + 0.5
        distance = mpp * np.hypot(rows - y, cols - x)
        near = np.where(distance <= max(SEARCH_UM, mpp), total, -1)
        region = _region(total, near, distance)
        if region is None:
            continue
        best = raised[:, region].mean(1).argmax()
        sure = np.maximum(raised[best, region], 255 * SURE)
        rest = raised[:, region] * ((255 - sure) / np.maximum(255 - raised[best, region], 1))
        rest[best] = sure
        raised[:, region] = rest
        apart = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5) * mpp
        unsure |= (apart > 0) & (apart <= RING_UM)
    drawn = raised.sum(0) >= 255 * DRAWN
    return raised.round().astype(np.uint8), ~unsure | drawn


def _region(
    total: NDArray[np.float32], near: NDArray[np.float32], distance: NDArray[np.float64]
) -> NDArray[np.bool_] | None:
    """Return the region (h, w) of the nucleus at a point; None if the teacher draws it."""
    peak = float(near.max())
    if peak >= DRAWN:
        return None
    if peak < LEAST_PEAK:
        disc = distance <= max(DISC_UM, float(distance.min()))
        return np.asarray(disc)
    possible = (total >= peak / 2) & (distance <= REACH_UM)
    _, parts = cv2.connectedComponents(possible.astype(np.uint8), connectivity=4)
    return np.asarray(parts == parts.flat[near.argmax()])
