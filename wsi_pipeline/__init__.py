"""Every nucleus and every cell of whole-slide cervical cytology, as objects that open in QuPath.

What is used from Python; a name is loaded when it is first asked for, so that the import is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_pipeline.core.config import RunConfig
    from wsi_pipeline.core.errors import WsisegError
    from wsi_pipeline.core.objects import Objects
    from wsi_pipeline.core.request import SlideRequest
    from wsi_pipeline.evaluation.matching import match_objects
    from wsi_pipeline.formats.geojson import read_geojson
    from wsi_pipeline.formats.geoparquet import read_parquet
    from wsi_pipeline.pipeline import RunResult, run_slide
    from wsi_pipeline.segmentation.load_model import model_from_module, open_model
    from wsi_pipeline.segmentation.model import Card
    from wsi_pipeline.segmentation.nuclei import model_from_function
    from wsi_pipeline.slides.slide import Slide, open_slide

    __version__: str

__all__ = [
    "Card",
    "Objects",
    "RunConfig",
    "RunResult",
    "Slide",
    "SlideRequest",
    "WsisegError",
    "__version__",
    "match_objects",
    "model_from_function",
    "model_from_module",
    "open_model",
    "open_slide",
    "read_geojson",
    "read_parquet",
    "run_slide",
]

_HOME = {
    "Card": "segmentation.model",
    "Objects": "core.objects",
    "RunConfig": "core.config",
    "RunResult": "pipeline",
    "Slide": "slides.slide",
    "SlideRequest": "core.request",
    "WsisegError": "core.errors",
    "match_objects": "evaluation.matching",
    "model_from_function": "segmentation.nuclei",
    "model_from_module": "segmentation.load_model",
    "open_model": "segmentation.load_model",
    "open_slide": "slides.slide",
    "read_geojson": "formats.geojson",
    "read_parquet": "formats.geoparquet",
    "run_slide": "pipeline",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("wsiseg")
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
