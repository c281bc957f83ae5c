"""The slides of a folder, and what else lies in it: everything is taken, or named with the reason.

A slide is a file with one of `SLIDE_SUFFIXES`, a folder whose name ends in ``.zarr``, or the files
of a DICOM series together. Photographs are slides only where they are asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wsi_pipeline.core.run_layout import RUN_JSON
from wsi_pipeline.slides.dicom_series import series_of

__all__ = ["PHOTO_SUFFIXES", "SLIDE_SUFFIXES", "Found", "is_slide", "slides_in"]

_log = logging.getLogger(__name__)

SLIDE_SUFFIXES = (
    ".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".qptiff", ".scn", ".svs", ".svslide", ".tif",
    ".tiff", ".vms", ".vmu",
)  # fmt: skip
"""A file with one of these suffixes counts as a slide when its folder is named."""
PHOTO_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Pictures that are slides only with ``--images``."""
FOLDER_SUFFIX = ".zarr"

_BESIDE = (".mrxs", ".vms", ".vmu")
"""Slides that have further files or folders, whose names begin as theirs."""
_NAMED = 5
"""At most this many files are named for one reason."""


@dataclass
class Found:
    """Slides, and what was left out: reason → names."""

    slides: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, path: Path, reason: str) -> None:
        """Record that a file is no slide."""
        self.left_out.setdefault(reason, []).append(path.name)

    def log(self, place: str) -> None:
        """Log one warning about all that was left out of `place`."""
        parts = []
        for reason, names in self.left_out.items():
            listed = ", ".join(names[:_NAMED])
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{listed}{more} ({reason})")
        if parts:
            _log.warning("%s: left out: %s", place, "; ".join(parts))


def is_slide(path: Path, *, images: bool = False) -> bool:
    """Return whether a file or folder counts as a slide by its name.

    Examples
    --------
    >>> is_slide(Path("a.SVS")), is_slide(Path("a.png")), is_slide(Path("a.png"), images=True)
    (True, False, True)
    """
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        return suffix == FOLDER_SUFFIX
    return suffix in SLIDE_SUFFIXES or (images and suffix in PHOTO_SUFFIXES)


def slides_in(folder: Path, *, recursive: bool = False, images: bool = False) -> Found:
    """Return the slides of a folder, sorted, and what is left out of it.

    Parameters
    ----------
    recursive
        search the folders inside it too
    images
        take photographs as well
    """
    found = Found()
    _sort_out(sorted(_entries(folder, recursive, found)), found, images=images)
    return found


def _entries(folder: Path, recursive: bool, found: Found) -> Iterator[Path]:
    """Yield the files of a folder and the folders that are slides; hidden ones are left out."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        found.leave_out(folder, f"cannot be read: {error.strerror}")
        return
    for name in names:
        path = folder / name
        if not os.path.isdir(path) or is_slide(path):
            if name.startswith("._"):
                found.leave_out(path, "written by macOS")
            elif not name.startswith("."):
                yield path
            elif is_slide(path):
                found.leave_out(path, "hidden: its name begins with a point")
        elif name.startswith(".") or _beside(path):
            continue
        elif os.path.isfile(path / RUN_JSON):
            found.leave_out(path, "a finished run")
        elif not recursive:
            found.leave_out(path, "a folder; --recursive searches it")
        elif path.is_symlink() and path.resolve() in (folder.resolve(), *folder.resolve().parents):
            found.leave_out(path, "a link to a folder around it")
        else:
            yield from _entries(path, recursive, found)


def _beside(path: Path) -> bool:
    """Return whether a file or folder is a part of a slide beside it.

    The folder of an MRXS slide has its name; the files of the others begin with it.
    """
    if path.is_dir():
        return any(
            other.suffix.lower() in _BESIDE and other.stem == path.name
            for other in path.parent.iterdir()
        )
    return any(
        other.suffix.lower() in _BESIDE and other != path and _begins(path.stem, other.stem)
        for other in path.parent.iterdir()
    )


def _begins(name: str, stem: str) -> bool:
    rest = name.removeprefix(stem)
    return rest != name and not rest[:1].isalnum()


def _sort_out(paths: Iterable[Path], found: Found, *, images: bool) -> None:
    """Add each path to the slides, or leave it out with the reason."""
    seen: dict[Path, Path] = {}
    series: dict[tuple[Path, bytes], Path] = {}
    for path in paths:
        if not os.path.exists(path):
            found.leave_out(path, "a link to nothing")
        elif path.suffix.lower() in PHOTO_SUFFIXES and _beside(path):
            continue
        elif not is_slide(path, images=images):
            photo = path.suffix.lower() in PHOTO_SUFFIXES
            found.leave_out(path, "a photograph; --images takes it" if photo else "no slide")
        elif (first := seen.setdefault(path.resolve(), path)) != path:
            found.leave_out(path, f"the same file as {first.name}")
        else:
            key = (path.parent, series_of(path) or os.fsencode(path))
            if series.setdefault(key, path) == path:
                found.slides.append(path)
