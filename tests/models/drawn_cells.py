"""Cells drawn as discs, as samples and as COCO sets, for the tests of training."""

import json

import cv2
import numpy as np
from pycocotools import mask as coco
from wsiseg_models.training.instance_data import InstanceSample

GLASS = 230
"""Grey value of the background."""
RADIUS = {1: 5, 2: 16}
"""Category → radius of its discs in a set, pixels."""


def disc(side, x, y, radius):
    """Bool (side, side): pixels whose centre is in a circle."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def sample_of(masks, labels, cell_id):
    """A sample from masks of the whole image."""
    windows = []
    for m in masks:
        rows, columns = np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))
        windows.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    parts = tuple(m[y0:y1, x0:x1] for m, (x0, y0, x1, y1) in zip(masks, windows, strict=True))
    side = masks[0].shape[0]
    image = np.full((side, side, 3), GLASS, np.uint8)
    for m, label in zip(masks, labels, strict=True):
        image[m] = (image[m] * (0.4 if label == 2 else 0.8)).astype(np.uint8)
    return InstanceSample(
        image, np.array(windows, np.int32), parts, np.array(labels, np.uint8),
        np.array(cell_id, np.int64), "drawn",
    )  # fmt: skip


def two_cells(side=160):
    """Two cells that do not touch, each with its nucleus."""
    masks = [disc(side, x, y, r) for x, y in ((50, 50), (110, 100)) for r in (26, 8)]
    return sample_of(masks, (1, 2, 1, 2), (1, 1, 2, 2))


def centres(fields=4):
    """Centres (x, y) of the three cells of each field of `write_set`."""
    return np.random.default_rng(7).integers(15, 81, (fields, 3, 2))


def write_set(folder):
    """Five fields of 96 × 96: cells that overlap, with nuclei; the last field is empty.

    The first cell of a field and its nucleus are polygons, the others RLE.
    """
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    places = centres()
    for i in range(5):
        field = np.full((96, 96, 3), GLASS, np.uint8)
        for cell, (x, y) in enumerate(places[i] if i < 4 else ()):
            for category in (2, 1):
                mask = disc(96, x, y, RADIUS[category])
                field[mask] = (field[mask] * (0.4 if category == 1 else 0.8)).astype(np.uint8)
                annotations.append(
                    {"id": len(annotations), "image_id": i, "category_id": category,
                     "cell_id": cell, "area": int(mask.sum()), "iscrowd": 0,
                     "segmentation": _rle(mask) if cell else _polygon(x, y, RADIUS[category])}
                )  # fmt: skip
        cv2.imwrite(str(folder / "images" / f"{i}.png"), field)
        images.append({"id": i, "file_name": f"images/{i}.png", "width": 96, "height": 96})
    names = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "cytoplasm"}]
    document = {"images": images, "annotations": annotations, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def _rle(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _polygon(x, y, radius):
    turn = np.linspace(0, 2 * np.pi, 40)
    return [np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1).ravel().tolist()]


def change(folder, edit):
    """Edit the annotations of a set."""
    file = folder / "annotations.json"
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))
