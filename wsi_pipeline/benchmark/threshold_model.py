"""A model in the network's place that costs next to nothing: what a run takes without it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UnknownModelError
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation.model import Images, shipped_cards
from wsi_pipeline.segmentation.nuclei import PixelModel

__all__ = ["make_threshold_model", "run_threshold_model"]

DARK = 140
"""Grey level below which a pixel of a generated slide is taken for a nucleus's."""


def make_threshold_model(name: str) -> PixelModel:
    """A model with the card of `name` and, for its network, a threshold on each pixel.

    Nuclei are dark in red and in green, cytoplasm in one of them at most. It costs a few
    milliseconds per window, so that all else of a run has its true load.

    Raises
    ------
    UnknownModelError
        no model of that name has weights, or it finds instances
    """
    cards = shipped_cards()
    usable = sorted(k for k, card in cards.items() if card.task == "nuclei")
    if name not in usable:
        raise UnknownModelError(f"nothing stands in for {name!r}; known: {', '.join(usable)}")
    card = cards[name]
    grey = np.arange(256)
    certain = np.clip((DARK - grey) * 8 + 128, 0, 255).astype(np.uint8)

    def predict(images: Images) -> Images:
        out = np.zeros((len(images), len(card.classes), *images.shape[1:3]), np.uint8)
        for image, scores in zip(images, out, strict=True):
            lighter = cv2.max(cv2.extractChannel(image, 0), cv2.extractChannel(image, 1))
            cv2.LUT(lighter, certain, dst=scores[0])
        return out

    return PixelModel(
        name="threshold", classes=card.classes, mpp=card.mpp, halo_px=card.halo_px,
        stride=card.stride, tile_px=card.tile_px, identity="threshold", network=predict,
    )  # fmt: skip


def run_threshold_model(path: str, out: str, name: str) -> None:
    """`wsiseg run --overwrite` with the threshold model, for a process of its own."""
    config = RunConfig(out=Path(out), overwrite=True, quiet=True)
    keep_freed_memory()  # as `wsiseg run` does on a CPU
    run_slide(path, config, model=make_threshold_model(name))
