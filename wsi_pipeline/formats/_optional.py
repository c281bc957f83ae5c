"""Import a library that only some formats need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from wsi_pipeline.core.errors import UsageError

__all__ = ["optional"]


def optional(module: str, what: str, extra: str) -> Any:
    """Return a module, or raise an error that states how to install it.

    Parameters
    ----------
    module
        name to import
    what
        what is written with it, for the message
    extra
        extra of wsiseg that installs it

    Raises
    ------
    UsageError
        it is not installed
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or module).partition(".")[0]
        raise UsageError(
            f"{what} needs {name}, which is not installed; pip install -e '.[{extra}]'"
        ) from None
