"""Segment a slide with a plain loop over tiles without overlap, as many papers' scripts do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from peer import Network, arguments, finish
from torch.utils.data import DataLoader, Dataset

TILE_PX = 512
BATCH = 8


class Tiles(Dataset[tuple[NDArray[np.uint8], int, int]]):
    """Tiles (3, `TILE_PX`, `TILE_PX`) with their corners, without those empty by Otsu's rule."""

    def __init__(self, path: Path, mpp: float) -> None:
        self.path, self.slide = path, openslide.OpenSlide(path)
        self.scale = mpp / float(self.slide.properties[openslide.PROPERTY_NAME_MPP_X])
        self.step = round(TILE_PX * self.scale)
        width, height = self.slide.dimensions
        grey = np.asarray(self.slide.get_thumbnail((width // 16, height // 16)).convert("L"))
        _, dark = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
        part = self.step // 16
        self.corners = [
            (x, y)
            for y in range(0, height, self.step)
            for x in range(0, width, self.step)
            if dark[y // 16 : y // 16 + part, x // 16 : x // 16 + part].any()
        ]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int, int]:
        """Return a tile and its corner in level-0 pixels."""
        x, y = self.corners[index]
        region = self.slide.read_region((x, y), 0, (self.step, self.step)).convert("RGB")
        tile = cv2.resize(np.asarray(region), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        return tile.transpose(2, 0, 1), x, y


def main() -> None:
    """Segment and trace tile by tile, then write everything at once."""
    given = arguments(__doc__)
    network = Network(given.network)
    loaded = time.time()
    tiles = Tiles(given.slide, given.mpp)
    features = []
    with torch.inference_mode():
        for images, xs, ys in DataLoader(tiles, batch_size=BATCH, num_workers=given.threads):
            masks = (network(images)[:, 0] >= 0.5).numpy().astype(np.uint8)
            for mask, x, y in zip(masks, xs.tolist(), ys.tolist(), strict=True):
                contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                for contour in (c[:, 0] for c in contours if len(c) > 2):
                    ring = (contour * tiles.scale + (x, y)).tolist()
                    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
                    features.append({"type": "Feature", "geometry": geometry, "properties": {}})
    with (given.out / "outlines.geojson").open("w", encoding="utf-8") as file:
        json.dump({"type": "FeatureCollection", "features": features}, file)
    finish(given.out, loaded, network, "openslide-python")


if __name__ == "__main__":
    main()
