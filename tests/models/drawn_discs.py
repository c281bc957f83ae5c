"""A small COCO set of nuclei, to train on."""

import json

import cv2
import numpy as np


def write_discs(folder):
    """Write a COCO set of four fields with discs for nuclei; return its folder."""
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(4):
        field = np.full((96, 96, 3), 230, np.uint8)
        for j in range(5):
            x, y = rng.integers(10, 86, 2)
            ring = [[x + 8 * np.cos(t), y + 8 * np.sin(t)] for t in np.linspace(0, 6, 16)]
            cv2.fillPoly(field, [np.array(ring, int)], (90, 40, 120))
            annotations.append(
                {"id": len(annotations), "image_id": i, "category_id": 1 + (j == 4),
                 "area": 196.0, "segmentation": [np.ravel(ring).tolist()]}
            )  # fmt: skip
        cv2.imwrite(str(folder / "images" / f"{i}.png"), field)
        images.append({"id": i, "file_name": f"images/{i}.png", "width": 96, "height": 96})
    names = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "Leukocyte_Nucleus"}]
    document = {"images": images, "annotations": annotations, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder
