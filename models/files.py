"""Files that appear under their name only once they are complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_aside"]


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`; rename it to `path` on success, remove it on failure.

    A file or a folder may be written there. `path` therefore holds either what it held before or
    everything that was written, never a part of it. The new name is ``<name>.<8 hex digits>.part``.

    Raises
    ------
    OSError
        when the rename fails, for example because `path` is a folder that is not empty

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with written_aside(Path(folder) / "a.txt") as aside:
    ...         _ = aside.write_text("complete")
    ...     [path.name for path in Path(folder).iterdir()]
    ['a.txt']
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)
        raise
