"""Estimate the stain of a slide, and the map that brings it to the range of a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError, SlideReadError, SlideTimeoutError
from wsi_pipeline.core.records import AdaptationRecord
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.stain_map import (
    Stain,
    StainMap,
    StainRange,
    measure_stain,
    stain_map,
)
from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.fields import spread_fields
from wsi_pipeline.slides.slide import Slide

__all__ = ["Adaptation", "adapt_to_slide", "trained_range"]

FIELD_PX = 256
MOST_FIELDS = 64
"""Side of a field in model pixels, and number of fields: together 4 megapixels."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adaptation:
    """The stain of a slide, and what is changed of it.

    Attributes
    ----------
    stain
        None where no field could be read, or all are black
    fields
        number of fields that were measured
    stain_map
        None: the pixels stay as they are
    note
        what was estimated, in words
    """

    stain: Stain | None
    fields: int
    stain_map: StainMap | None
    note: str

    def record(self) -> AdaptationRecord:
        """Return the entry of run.json."""
        stain, change = self.stain, self.stain_map
        density = stain.density if stain else None
        return {
            "fields": self.fields,
            "glass": list(stain.glass) if stain else None,
            "density": list(density) if density else None,
            "stained_share": stain.share if stain else None,
            "new_glass": list(change.new_glass) if change else None,
            "gain": change.gain if change else None,
            "note": self.note,
        }


def trained_range(model: Model) -> StainRange:
    """Return the range of stains in which a model was trained.

    Raises
    ------
    ConfigError
        the model's card has none
    """
    entry = model.card.get("stain")
    remedy = "leave out --adapt, or measure the range with experiments/stain_range.py"
    if not entry:
        raise ConfigError(f"the card of {model.name} has no range of stains; {remedy}")
    try:
        return StainRange.from_card(entry)
    except ValueError as error:
        raise ConfigError(f"the card of {model.name} has a {error}; {remedy}") from error


def adapt_to_slide(
    slide: Slide, model: Model, thumbnail: NDArray[np.uint8], downsample: float, *, quiet: bool
) -> Adaptation:
    """Estimate the stain of a slide on a few fields, and compare it with the model's range.

    The fields are spread evenly over the cells of the whole slide, whatever area is segmented, so
    that a slide has one estimate. Fields that cannot be read are left out.

    Parameters
    ----------
    thumbnail, downsample
        see `Overview`; it shows where there are cells
    quiet
        write nothing to the log

    Raises
    ------
    ConfigError
        see `trained_range`
    SlideTimeoutError
        the drive does not answer
    """
    trained = trained_range(model)
    cells = find_foreground(thumbnail, downsample, slide.width, slide.height)
    pixels: list[NDArray[np.uint8]] = []
    for box in spread_fields(slide, cells, mpp=model.mpp, side_px=FIELD_PX, most=MOST_FIELDS):
        try:
            field = slide.read_scaled(box, model.mpp / slide.require_mpp().value)
        except SlideTimeoutError:
            raise
        except SlideReadError:
            continue
        pixels.append(field[::2, ::2].reshape(-1, 3))
    stain = measure_stain(np.concatenate(pixels)) if pixels else None
    change = stain_map(stain, trained) if stain else None
    found = Adaptation(stain, len(pixels), change, _in_words(stain, change))
    if not quiet:
        _log.warning("%s: %s", slide.path.name, found.note)
    return found


def _in_words(stain: Stain | None, change: StainMap | None) -> str:
    if stain is None or stain.density is None:
        return "too little stain to estimate; the pixels stay as they are"
    glass = ", ".join(f"{v:.0f}" for v in stain.glass)
    density = ", ".join(f"{v:.2f}" for v in stain.density)
    seen = f"glass {glass}, mean optical density of stain {density} (red, green, blue)"
    if change is None:
        return f"{seen}: within the range of the model's training; the pixels stay as they are"
    new = ", ".join(f"{v:.0f}" for v in change.new_glass)
    return f"{seen}: the network gets glass {new} and densities × {change.gain:.2f}"
