"""Exit codes of `wsiseg`, and the one that an error gets."""

from __future__ import annotations

from wsi_pipeline.core.errors import (
    ClusterError,
    OutOfMemoryError,
    OutputError,
    SlideError,
    SlideNotFoundError,
    WsisegError,
)

__all__ = ["FAILED", "STOPPED", "USAGE", "exit_code"]

FAILED = 1
"""Something failed while the work was done."""
USAGE = 2
"""The arguments, or a file that they name, cannot be used; nothing was started."""
STOPPED = 130
"""A signal stopped the work; the same command resumes it."""

_WHILE_RUNNING = (SlideError, OutputError, ClusterError, OutOfMemoryError)


def exit_code(error: WsisegError) -> int:
    """Return the exit code of a command that ended with `error`.

    >>> from wsi_pipeline.core.errors import SlideReadError, UsageError
    >>> exit_code(UsageError("unknown model 'x'")), exit_code(SlideReadError("x 0–9"))
    (2, 1)
    """
    if isinstance(error, SlideNotFoundError):
        return USAGE
    return FAILED if isinstance(error, _WHILE_RUNNING) else USAGE
