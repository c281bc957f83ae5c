"""Write a file beside its place, then rename it: a file that exists is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from isal import igzip
from wsiseg_models.files import written_aside

from wsi_pipeline.core.errors import OutputError, WsisegError

__all__ = ["as_output_error", "open_part", "part_path", "write_bytes", "write_json", "write_text"]

_REMEDY = "check the folder, its permissions and its free space"


@contextmanager
def as_output_error(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Turn any `OSError` of the block into an `OutputError` that names `path` and a remedy."""
    try:
        yield
    except WsisegError:
        raise
    except OSError as error:
        raise _output_error(path, error, remedy) from error


def _output_error(path: Path, error: OSError, remedy: str) -> OutputError:
    return OutputError(f"{path} cannot be written ({error.strerror or error}); {remedy}")


@contextmanager
def part_path(path: Path, remedy: str = _REMEDY) -> Iterator[Path]:
    """Yield a new name beside `path`, for a file or a folder, that becomes `path` on success.

    On failure it is removed. An `OSError` that names another file is not changed.

    Raises
    ------
    OutputError
        the file or folder cannot be written or renamed
    """
    if path.name in ("", ".."):
        raise OutputError(f"{path} is a folder; give the name of a file")
    part: Path | None = None
    try:
        with written_aside(path) as part:
            yield part
    except WsisegError:
        raise
    except OSError as error:
        if error.filename is None or str(error.filename) == str(part):
            raise _output_error(path, error, remedy) from error
        raise


@contextmanager
def open_part(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that becomes `path` on success; gzip where the name ends in .gz.

    Raises
    ------
    OutputError
        the file cannot be written
    """
    with part_path(path) as part, ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(open(part, "xb"))
        if path.suffix.lower() != ".gz":
            yield raw
            return
        # No name and no time in the header: the same objects make the same bytes.
        yield stack.enter_context(
            igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0)
        )


def write_bytes(
    path: Path, content: bytes, *, durable: bool = False, remedy: str = _REMEDY
) -> None:
    """Write a file beside `path` and rename it to `path`.

    Parameters
    ----------
    durable
        flush the content to the disk before the rename, so that it survives a power failure
    remedy
        end of the error message: what the user can do

    Raises
    ------
    OutputError
        the file cannot be written
    """
    with part_path(path, remedy) as part, open(part, "xb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write UTF-8 text as `write_bytes` does; line breaks stay as they are."""
    write_bytes(path, text.encode(), durable=durable)


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write JSON as `write_bytes` does: ASCII, one space of indentation, a line break at the end.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_json(Path(folder) / "run.json", {"objects": 3})
    ...     print((Path(folder) / "run.json").read_text(), end="")
    {
     "objects": 3
    }
    """
    write_text(path, json.dumps(content, indent=1) + "\n", durable=durable)
