"""What the rules of the workflow ask: its slides, their settings, and what became of them.

`wsi_pipeline.batch.snakemake` starts Snakemake; this is for its jobs, which may be on any machine.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from wsi_pipeline.batch.job import DONE, read_record
from wsi_pipeline.batch.run_many import check_slides
from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, UsageError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.core.safe_names import NameRefused, slide_id_of

__all__ = ["STAGES", "Plan", "Verdict", "judge", "own_programs_first", "read_plan"]

STAGES = ("qc", "segment", "features", "export", "report")
"""What is done for each slide, in order."""
DECIDING = (
    "model", "checkpoint", "precision", "mpp", "foreground", "roi", "threshold", "min_area_um2",
    "min_score", "min_small_score", "split", "crop",
)  # fmt: skip
"""Settings that decide what is found; the others say how and where it is computed."""
_ELSEWHERE = ("out", "overwrite")
_BRACES = set("{}")


@dataclass(frozen=True)
class Plan:
    """What the rules ask: slides by id, settings, and the workflow's own options.

    Slides whose names can name no files are not among them, but in `refused` with the cause.
    """

    slides: Mapping[str, SlideRequest]
    refused: Mapping[str, str]
    config: RunConfig
    options: Mapping[str, Any]

    def slide(self, slide_id: str) -> str:
        """The slide's path."""
        return str(self.slides[slide_id].path)

    def inputs(self, slide_id: str) -> list[str]:
        """Files that decide the slide's result and are there.

        One that is missing is no reason for Snakemake to stop; its job says so. Nor is a brace in a
        path; the key tells a change all the same.
        """
        there = [str(p) for p in self._files(slide_id) if p is not None and p.exists()]
        return [path for path in there if not _BRACES & set(path)]

    def key(self, slide_id: str) -> str:
        """Changes when the files or the settings do that decide the slide's result.

        Times of files are compared for being equal, never for being older: clocks differ. A slide
        that was done keeps its key when its file has gone.
        """
        if not self.slides[slide_id].path.exists():
            record = read_record(Path(f"status/segment/{slide_id}.json"))
            if record is not None and record["status"] == DONE:
                return str(record["key"])
        stats = [p.stat() if p and p.exists() else None for p in self._files(slide_id)]
        # A file is known by what is in it, not by where it lies.
        names = [name for name in DECIDING if name not in ("checkpoint", "roi")]
        flags = _flags(self._own(slide_id), names)
        text = repr((flags, [s and (s.st_size, s.st_mtime_ns) for s in stats]))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def deciding(self, slide_id: str) -> list[str]:
        """Flags of `wsiseg run` that decide the slide's result."""
        sheet = [] if self.slides[slide_id].mpp is None else ["--mpp-of-sheet"]
        return [*_flags(self._own(slide_id), DECIDING), *sheet]

    def looking(self, slide_id: str) -> list[str]:
        """Those among them that `wsiseg info` has, too."""
        return _flags(self._own(slide_id), ("mpp", "crop"))

    def machine(self) -> list[str]:
        """Flags of `wsiseg run` that say how and where: they decide nothing."""
        names = (f.name for f in fields(RunConfig))
        return _flags(self.config, [n for n in names if n not in (*DECIDING, *_ELSEWHERE)])

    def _files(self, slide_id: str) -> tuple[Path, Path | None, Path | None]:
        config = self._own(slide_id)
        return self.slides[slide_id].path, config.checkpoint, config.roi

    def _own(self, slide_id: str) -> RunConfig:
        slide, config = self.slides[slide_id], self.config
        own = {k: getattr(slide, k) or getattr(config, k) for k in ("mpp", "model", "roi")}
        return replace(config, **own)


@dataclass(frozen=True)
class Verdict:
    """What became of the slides: how many are done, and causes by id where something is missing."""

    done: int
    failed: Mapping[str, str]
    unknown: Sequence[str]


def read_plan(config: Mapping[str, Any]) -> Plan:
    """The plan of a configuration as in workflows/config.yaml.

    Raises
    ------
    UsageError
        a setting is unknown or makes no sense, or the slides cannot be told apart
    """
    settings = {k: v for k, v in config.items() if k != "workflow"}
    options = dict(config.get("workflow") or {})
    run = RunConfig.from_mapping(settings)
    if run.out != RunConfig.out:
        raise ConfigError(
            f"out {str(run.out)!r} has no place here: results go where Snakemake works"
        )
    names = options.get("slides") or []
    slides = find_slides([names] if isinstance(names, str) else names) if names else []
    check_slides(slides, run, look_into_rois=False)  # each job comes here
    by_id: dict[str, SlideRequest] = {}
    refused: dict[str, str] = {}
    for slide in slides:
        try:
            slide_id = _id(slide.path)
        except NameRefused as error:
            slide_id = _printable(slide.path.name)
            refused[slide_id] = str(error)
        other = by_id.setdefault(slide_id, slide)
        if other is not slide:
            raise UsageError(
                f"{other.path} and {slide.path} are both slide {slide_id!r}, which has one run "
                "folder; give each its own OUT"
            )
    fit = {k: slide for k, slide in by_id.items() if k not in refused}
    return Plan(fit, refused, run, options)


def _id(path: Path) -> str:
    slide_id = slide_id_of(path)
    if _BRACES & set(slide_id):
        raise NameRefused(
            f"{path.name} has a brace, which Snakemake takes for a wildcard; rename it, or use "
            "`wsiseg run`"
        )
    return slide_id


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def own_programs_first() -> None:
    """Let jobs find the `python` and `wsiseg` of this installation, activated or not."""
    own = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join((own, os.environ.get("PATH", os.defpath)))


def _flags(config: RunConfig, names: Iterable[str]) -> list[str]:
    """Command line of what is not at its default."""
    flags = []
    for name in names:
        value, flag = getattr(config, name), name.replace("_", "-")
        if value == getattr(RunConfig, name):
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def judge(
    folder: Path, slide_ids: Iterable[str], refused: Mapping[str, str] | None = None
) -> Verdict:
    """What the records under `folder` say of slides; the `refused` ones failed, too."""
    done, failed, unknown = 0, dict(refused or {}), []
    for slide_id in slide_ids:
        records = [read_record(folder / "status" / s / f"{slide_id}.json") for s in STAGES]
        causes = [r["cause"] for r in records if r is not None and r["status"] != DONE]
        if causes:
            failed[slide_id] = str(causes[0])
        elif None in records:
            unknown.append(slide_id)
        else:
            done += 1
    return Verdict(done, failed, unknown)
