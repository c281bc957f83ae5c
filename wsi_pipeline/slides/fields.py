"""Fields of a slide: small windows that stand for the whole of it."""

from __future__ import annotations

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide

__all__ = ["spread_fields"]


def spread_fields(
    slide: Slide, foreground: Foreground, *, mpp: float, side_px: int, most: int
) -> list[Box]:
    """Return up to `most` fields whose middle is foreground, spread evenly over it.

    A slide always has the same fields, on the grid of `mpp` µm per pixel, for `Slide.read_scaled`.

    Parameters
    ----------
    side_px
        side of a field, pixels of the grid; fields of a smaller slide end with it
    """
    scale = mpp / slide.require_mpp().value
    width, height = int(slide.width / scale), int(slide.height / scale)
    found = []
    for y in range(0, max(height - side_px, 0) + 1, side_px):
        for x in range(0, max(width - side_px, 0) + 1, side_px):
            middle = ((x + side_px / 2) * scale, (y + side_px / 2) * scale)
            whole = width < side_px or height < side_px
            if whole or foreground.covers(*middle, middle[0] + 1, middle[1] + 1):
                box = Box(x, y, x + side_px, y + side_px)
                found.append(box.clip(Box(0, 0, width, height)))
    if len(found) <= most:
        return found
    return [found[i * len(found) // most] for i in range(most)]
