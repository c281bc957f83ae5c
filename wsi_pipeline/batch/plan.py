"""The plan of a workflow: its slides and settings, as the Snakemake rules need them.

`wsi_pipeline.batch.snakemake` starts Snakemake; every job, on any machine, reads the plan again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wsi_pipeline.batch.job import DONE, JobRecord, read_record
from wsi_pipeline.batch.run_many import check_settings
from wsi_pipeline.batch.slide_sheet import find_slides, sheet_row
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, UsageError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.core.run_layout import run_folder_path
from wsi_pipeline.core.safe_names import NameRefused, slide_id_of
from wsi_pipeline.segmentation.model_name import model_name

__all__ = ["STAGES", "Plan", "Verdict", "own_programs_first", "read_plan", "read_verdict"]

STAGES = ("qc", "segment", "features", "export", "report")
"""Stages of each slide, in order."""
RESULT_SETTINGS = (
    "model", "checkpoint", "precision", "mpp", "series", "plane", "time", "foreground",
    "roi", "threshold", "min_area_um2", "min_score", "min_small_score", "min_cell_score", "split",
    "kinds", "kinds_checkpoint", "adapt", "crop",
)  # fmt: skip
"""Settings that decide the objects; the others decide how and where they are computed."""
_NOT_FOR_JOBS = ("out", "overwrite")
_BRACES = set("{}")


@dataclass(frozen=True)
class Plan:
    """Slides and settings of a workflow; the rules call its methods.

    Attributes
    ----------
    slides
        requests by slide id
    refused
        causes by file name, for slides whose name cannot be used for files
    config
        settings for all slides
    options
        settings of the workflow itself
    """

    slides: Mapping[str, SlideRequest]
    refused: Mapping[str, str]
    config: RunConfig
    options: Mapping[str, Any]

    def slide(self, slide_id: str) -> str:
        """Return the path of the slide."""
        return str(self.slides[slide_id].path)

    def run_folder(self, slide_id: str) -> str:
        """Return the run folder of the slide, relative to OUT."""
        if (kept := self._kept(slide_id)) is not None:
            return kept["run_folder"]
        model = model_name(self._settings(slide_id))
        return run_folder_path(Path("runs"), slide_id, model).as_posix()

    def table_name(self, slide_id: str) -> str:
        """Return the name of the slide's tables and exports, without ending."""
        return f"{slide_id}.{Path(self.run_folder(slide_id)).name}"

    def inputs(self, slide_id: str) -> list[str]:
        """Return the existing files that decide the result of the slide.

        A missing file must not stop Snakemake; the job of the slide reports it. Paths with braces
        are left out, because Snakemake would read them as wildcards; the key covers them.
        """
        there = [str(p) for p in self._files(slide_id) if p is not None and os.path.exists(p)]
        return [path for path in there if not _BRACES & set(path)]

    def key(self, slide_id: str) -> str:
        """Return a text that changes with the files and settings that decide the result.

        A changed time of a file counts, whether later or earlier: clocks differ. A slide that is
        done keeps its key when its file is removed.
        """
        if (kept := self._kept(slide_id)) is not None:
            return kept["key"]
        stats = [p.stat() if p and os.path.exists(p) else None for p in self._files(slide_id)]
        # A file counts by its size and time; moving it changes nothing.
        files = ("checkpoint", "roi", "kinds_checkpoint")
        names = [name for name in RESULT_SETTINGS if name not in files]
        flags = _flags(self._settings(slide_id), names)
        text = repr((flags, [s and (s.st_size, s.st_mtime_ns) for s in stats]))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def row(self, slide_id: str) -> str:
        """Return the slide's row for a slide sheet, as JSON."""
        return json.dumps(sheet_row(self.slides[slide_id]))

    def result_flags(self) -> list[str]:
        """Return the flags of `wsiseg run` that decide the result, for all slides."""
        return _flags(self.config, RESULT_SETTINGS)

    def machine_flags(self) -> list[str]:
        """Return the flags of `wsiseg run` that decide how and where it computes."""
        names = (f.name for f in fields(RunConfig))
        others = [n for n in names if n not in (*RESULT_SETTINGS, *_NOT_FOR_JOBS)]
        return _flags(self.config, others)

    def report_slide(self, slide_id: str) -> list[str]:
        """Return the flag of `wsiseg report` for its gallery; none if the slide was removed."""
        path = self.slide(slide_id)
        return ["--image", path] if self.options["gallery"] and os.path.exists(path) else []

    def report_flags(self) -> list[str]:
        """Return the flags of `wsiseg report` for all slides."""
        cohort = self.options["cohort"]
        return [] if cohort is None else ["--cohort", str(cohort)]

    def extended_slide(self, slide_id: str) -> list[str]:
        """Return the flag of `wsiseg features` for further measurements."""
        return ["--extended", self.slide(slide_id)] if self.options["extended"] else []

    def extended_product(self, slide_id: str) -> list[str]:
        """Return the flag of the job for the file of further measurements."""
        path = f"features/{self.table_name(slide_id)}.extended.parquet"
        return ["--product", path] if self.options["extended"] else []

    def info_flags(self, slide_id: str) -> list[str]:
        """Return the flags of `wsiseg info` for the slide."""
        return _flags(self._settings(slide_id), ("mpp", "series", "plane", "time", "crop"))

    def _kept(self, slide_id: str) -> JobRecord | None:
        """Return the record of a slide that is done and whose file was removed since, or None."""
        if os.path.exists(self.slides[slide_id].path):
            return None
        record = read_record(Path(f"status/segment/{slide_id}.json"))
        return record if record is not None and record["status"] == DONE else None

    def _files(self, slide_id: str) -> tuple[Path | None, ...]:
        config = self._settings(slide_id)
        return self.slides[slide_id].path, config.checkpoint, config.roi, config.kinds_checkpoint

    def _settings(self, slide_id: str) -> RunConfig:
        return self.slides[slide_id].settings(self.config)


@dataclass(frozen=True)
class Verdict:
    """How the slides of a workflow ended.

    Attributes
    ----------
    done
        number of slides without any failure
    failed
        causes by slide id
    unknown
        ids of slides that are not finished
    """

    done: int
    failed: Mapping[str, str]
    unknown: Sequence[str]


def read_plan(config: Mapping[str, Any]) -> Plan:
    """Return the plan of a configuration as in workflows/config.yaml.

    Raises
    ------
    UsageError
        a setting is unknown or out of range, or two slides have the same id
    """
    settings = {k: v for k, v in config.items() if k != "workflow"}
    options = dict(config.get("workflow") or {})
    run = RunConfig.from_mapping(settings)
    if run.out != RunConfig.out:
        raise ConfigError(f"out {str(run.out)!r} cannot be set here; remove it, give --directory")
    names = options.get("slides") or []
    slides = find_slides([names] if isinstance(names, str) else names, missing_ok=True)
    check_settings(slides, run)
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
                f"{other.path} and {slide.path} are both slide {slide_id!r}; a workflow runs each "
                "slide once, with one model; give each its own OUT"
            )
    fit = {k: slide for k, slide in by_id.items() if k not in refused}
    return Plan(fit, refused, run, options)


def _id(path: Path) -> str:
    slide_id = slide_id_of(path)
    if _BRACES & set(slide_id):
        raise NameRefused(
            f"{path.name} has a brace in its name, which Snakemake reads as a wildcard; rename it, "
            "or use `wsiseg run`"
        )
    return slide_id


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def own_programs_first() -> None:
    """Put the folder of this Python first in PATH, so that jobs use its `wsiseg` too."""
    own = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join((own, os.environ.get("PATH", os.defpath)))


def _flags(config: RunConfig, names: Iterable[str]) -> list[str]:
    """Return command-line flags for the settings that are not at their defaults."""
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


def read_verdict(
    out: Path, slide_ids: Iterable[str], refused: Mapping[str, str] | None = None
) -> Verdict:
    """Return how slides ended, from the records in `out`; the `refused` slides count as failed."""
    done, failed, unknown = 0, dict(refused or {}), []
    for slide_id in slide_ids:
        records = [read_record(out / "status" / s / f"{slide_id}.json") for s in STAGES]
        causes = [r["cause"] for r in records if r is not None and r["status"] != DONE]
        if causes:
            failed[slide_id] = causes[0]
        elif None in records:
            unknown.append(slide_id)
        else:
            done += 1
    return Verdict(done, failed, unknown)
