"""SlideRequest: a slide to process, and the settings that hold for it alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from wsi_pipeline.core.config import RunConfig

__all__ = ["SlideRequest", "as_request"]


@dataclass(frozen=True)
class SlideRequest:
    """A slide to process, and what the command line or a slide sheet gives for it alone.

    Attributes
    ----------
    path
        the slide file
    mpp
        µm per level-0 pixel; None: that of the file, or of `RunConfig.mpp`
    mpp_source
        where `mpp` comes from: "--mpp" or "slide sheet"
    model
        registered name of the model; None: that of `RunConfig.model`
    roi
        GeoJSON file of its regions of interest; None: that of `RunConfig.roi`

    Examples
    --------
    >>> request = SlideRequest(Path("a.svs"), mpp=0.25, mpp_source="slide sheet")
    >>> request.settings(RunConfig(mpp=0.5, model="donet")).mpp
    0.25
    >>> SlideRequest(Path("b.svs")).settings(RunConfig(mpp=0.5)).mpp
    0.5
    """

    path: Path
    mpp: float | None = None
    mpp_source: str = "--mpp"
    model: str | None = None
    roi: Path | None = None

    def settings(self, config: RunConfig) -> RunConfig:
        """`config` with the request's own pixel size, model and regions, where it has them."""
        return replace(
            config,
            mpp=config.mpp if self.mpp is None else self.mpp,
            model=self.model or config.model,
            roi=self.roi or config.roi,
        )


def as_request(slide: SlideRequest | Path | str) -> SlideRequest:
    """The request itself, or one for a path with no settings of its own."""
    return slide if isinstance(slide, SlideRequest) else SlideRequest(Path(slide))
