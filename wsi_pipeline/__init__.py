"""Every nucleus and every cell of whole-slide cervical cytology, as objects that open in QuPath.

What is used from Python; a name is loaded when it is first asked for, so that the import is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_pipeline.config import RunConfig
    from wsi_pipeline.errors import WsisegError
    from wsi_pipeline.export.geojson import read_geojson
    from wsi_pipeline.export.parquet import read_parquet
    from wsi_pipeline.metrics import match_objects
    from wsi_pipeline.model import Card, model_from_function
    from wsi_pipeline.objects import Objects
    from wsi_pipeline.pipeline import RunResult, run_slide
    from wsi_pipeline.registry import model_from_module, open_model
    from wsi_pipeline.slide import Slide, open_slide

    __version__: str

__all__ = [
    "Card",
    "Objects",
    "RunConfig",
    "RunResult",
    "Slide",
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
    "Card": "model",
    "Objects": "objects",
    "RunConfig": "config",
    "RunResult": "pipeline",
    "Slide": "slide",
    "WsisegError": "errors",
    "match_objects": "metrics",
    "model_from_function": "model",
    "model_from_module": "registry",
    "open_model": "registry",
    "open_slide": "slide",
    "read_geojson": "export.geojson",
    "read_parquet": "export.parquet",
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
