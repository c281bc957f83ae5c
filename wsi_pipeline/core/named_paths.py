"""The files and folders that the words of a command line name: paths and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsi_pipeline.core.errors import UsageError, one_line
from wsi_pipeline.core.safe_names import shown

__all__ = ["expand_glob", "named_paths", "refuse_missing", "why_refused"]


def expand_glob(name: str | Path) -> list[Path]:
    """Return the paths that one word names, sorted.

    A glob (``*``, ``?``, ``[…]``; ``**`` for folders in folders) gives its matches, perhaps none.
    Any other word, and the name of an existing file with such characters in it, gives its path,
    whether that exists or not.

    Examples
    --------
    >>> expand_glob("scans/a.svs") == [Path("scans/a.svs")]
    True
    >>> expand_glob("no-such-folder/*.svs")
    []
    """
    path = Path(name)
    if os.path.exists(path) or not glob.has_magic(str(name)):
        return [path]
    return sorted(Path(match) for match in glob.glob(str(name), recursive=True))


def named_paths(names: Iterable[str | Path]) -> list[Path]:
    """Return the existing paths that `names` give, in order, with globs expanded.

    Raises
    ------
    UsageError
        some paths do not exist or some globs have no match; the message lists all of them
    """
    found = [(name, expand_glob(name)) for name in names]
    paths = [path for _, matches in found for path in matches]
    refuse_missing(paths, [str(name) for name, matches in found if not matches])
    return paths


def refuse_missing(paths: Iterable[Path], unmatched: Sequence[str] = ()) -> None:
    """Make sure that all paths exist and that no glob is without a match.

    Parameters
    ----------
    unmatched
        globs without a match

    Raises
    ------
    UsageError
        the message lists every missing path and every such glob

    Examples
    --------
    >>> refuse_missing([Path("a.svs"), Path("b.svs"), Path(".")])
    Traceback (most recent call last):
    wsi_pipeline.core.errors.UsageError: a.svs, b.svs do not exist; check the paths
    """
    missing = [shown(path) for path in dict.fromkeys(paths) if not os.path.exists(path)]
    faults = []
    if missing:
        faults.append(f"{', '.join(missing)} do{'es' * (len(missing) == 1)} not exist")
    if unmatched:
        faults.append(f"no file matches {', '.join(map(repr, unmatched))}")
    if faults:
        raise UsageError(f"{'; '.join(faults)}; check the paths")


def why_refused(path: Path) -> str:
    """Return why the system does not even search for a path; empty where it does.

    The name is too long or has a NUL, links lead in a circle, or a folder is closed to this user.

    Examples
    --------
    >>> why_refused(Path("a" * 300)) != "", why_refused(Path("no-such-file"))
    (True, '')
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or one_line(error)
    return ""
