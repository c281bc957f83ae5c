"""Open the slide file that belongs to a run: a run states its slide's size, not its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = ["slide_of_run"]

_READING = ("crop", "series", "plane", "time")
"""Settings of a run that decide which pixels of the file were read."""


def slide_of_run(
    run: Path,
    stated: Mapping[str, Any],
    file: Path,
    *,
    read_timeout_s: float = RunConfig.read_timeout_s,
    mpp: float | None = None,
) -> Slide:
    """Open the slide of a run with the settings of the run, or an image without a run.

    Parameters
    ----------
    run
        the run folder or the file of objects, for the message of an error
    stated
        content of run.json, or what a file of objects states; may be empty
    file
        the slide file
    read_timeout_s, mpp
        see `open_slide`

    Raises
    ------
    UsageError
        the size of the file is not that of the run's slide
    """
    about, settings = stated.get("slide") or {}, stated.get("settings") or {}
    kept = {name: settings[name] for name in _READING if name in settings}
    opened = open_slide(file, read_timeout_s=read_timeout_s, mpp=mpp, **kept)
    size = opened.width, opened.height
    if about and size != (about.get("width"), about.get("height")):
        opened.close()
        raise UsageError(
            f"{file} has {size[0]} x {size[1]} pixels, the slide of {run} "
            f"{about.get('width')} x {about.get('height')}; give the slide file of that run"
        )
    return opened
