"""Write aside, then rename: a file that exists is finished."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from isal import igzip

from wsi_pipeline.core.errors import OutputError

__all__ = ["open_part", "part_path"]


@contextmanager
def part_path(path: Path) -> Iterator[Path]:
    """A new name beside `path` that becomes `path` on success and is removed otherwise."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        # Trouble with another file, met while this one was open, is not this file's.
        ours = isinstance(error, OSError) and error.filename in (None, str(part))
        if type(error).__module__ == "builtins" and ours:
            raise OutputError(
                f"{path} cannot be written: {error}; check the folder and its free space"
            ) from error
        raise


@contextmanager
def open_part(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears as `path` once it is complete; gzip where the name ends in .gz."""
    with part_path(path) as part, ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(open(part, "xb"))
        if path.suffix.lower() != ".gz":
            yield raw
            return
        # No name and no time in the header: the same objects make the same bytes.
        yield stack.enter_context(
            igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0)
        )
