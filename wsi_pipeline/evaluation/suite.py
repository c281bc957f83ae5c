"""`wsiseg evaluate --suite`: a report card of models on every real set below a folder.

This module can be imported without pycocotools, which only reading the truth needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg_models.checkpoint import read_card

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.files import as_output_error, write_json, write_text
from wsi_pipeline.evaluation.coco_evaluation import require_pycocotools
from wsi_pipeline.evaluation.suite_report import (
    SCHEMA_VERSION,
    read_earlier,
    suite_markdown,
    without_nan,
)
from wsi_pipeline.segmentation.model import Card, Model, shipped_cards

if TYPE_CHECKING:
    from wsi_pipeline.evaluation.suite_fields import SegmentSlide
    from wsi_pipeline.evaluation.suite_sets import SuiteSet

__all__ = ["NamedModel", "open_models", "run_suite", "training_notes"]

WORST = 10
"""Number of fields per model whose pictures are written."""


def run_suite(
    folder: Path,
    models: Sequence[str],
    checkpoints: Sequence[Path],
    config: RunConfig,
    segment: SegmentSlide,
    *,
    split: str,
    out: Path | None,
    before: Path | None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Measure models on all sets below a folder.

    Parameters
    ----------
    folder, split
        see `find_sets`
    models, checkpoints
        see `open_models`
    config
        settings of the runs; its model and checkpoint are replaced
    segment
        segments one field
    out
        folder that gets suite.json, suite.md, and ``worst`` with pictures; None: nothing is written
    before
        suite.json of an earlier suite

    Returns
    -------
    the suite as it stands in suite.json, and the earlier one

    Raises
    ------
    UsageError, CheckpointError, DataError, SlideError, OutputError
        settings, models, sets or `before` cannot be used, or `out` cannot be written
    """
    require_pycocotools()
    from wsi_pipeline.evaluation.suite_sets import find_sets

    earlier = read_earlier(before) if before is not None else None
    sets, left_out = find_sets(folder, split)
    if out is not None:
        with as_output_error(out):
            out.mkdir(parents=True, exist_ok=True)
    suite = {
        "schema_version": SCHEMA_VERSION,
        "version": version("wsiseg"),
        "settings": _settings(config, split),
        "sets": [_describe(one) for one in sets],
        "left_out": [{"name": one.name, "reason": one.reason} for one in left_out],
        "models": [
            _measure(one, sets, replace(config, model=one.model.name), segment, out, split)
            for one in open_models(models, checkpoints, config)
        ],
    }
    suite = without_nan(suite)
    if out is not None:
        write_json(out / "suite.json", suite)
        write_text(out / "suite.md", suite_markdown(suite, earlier))
    return suite, earlier


@dataclass(frozen=True)
class NamedModel:
    """An open model, its name in the tables, and its card."""

    name: str
    model: Model
    card: Card


def open_models(
    names: Sequence[str], checkpoints: Sequence[Path], config: RunConfig
) -> list[NamedModel]:
    """Open models as a run does; ``all`` stands for those whose weights ship.

    A checkpoint has the name of its architecture, or, where that is taken, that of its file with as
    many of its folders as are needed.

    Raises
    ------
    UnknownModelError, CheckpointError, DeviceError
        a model cannot be opened
    UsageError
        a model gives boxes, which have no outline to compare
    """
    from wsi_pipeline.segmentation.boxes import BoxModel
    from wsi_pipeline.segmentation.load_model import model_for

    shipped = shipped_cards()
    wanted = [n for name in names for n in (shipped if name == "all" else [name])]
    out: dict[str, NamedModel] = {}
    for name in dict.fromkeys(wanted):
        model = model_for(replace(config, model=name, checkpoint=None))
        out[name] = NamedModel(name, model, shipped[name])
    for path in checkpoints:
        model = model_for(replace(config, checkpoint=path))
        parts = path.absolute().with_suffix("").parts
        longer = ("/".join(parts[-k:]) for k in range(1, len(parts)))
        name = next((n for n in (model.name, *longer) if n not in out), str(path))
        out[name] = NamedModel(name, model, read_card(path))
    for named in out.values():
        if isinstance(named.model, BoxModel):
            raise UsageError(
                f"{named.name} gives boxes, and a suite compares outlines; measure it with --data"
            )
    return list(out.values())


def _measure(
    one: NamedModel,
    sets: Sequence[SuiteSet],
    config: RunConfig,
    segment: SegmentSlide,
    out: Path | None,
    split: str,
) -> dict[str, Any]:
    """Measure one model; return its entry in suite.json and write its pictures."""
    from wsi_pipeline.evaluation.suite_fields import field_rows, measure_model
    from wsi_pipeline.evaluation.suite_pictures import worst_fields, write_worst

    scores, drawn = measure_model(one.model, sets, config, segment, quiet=config.quiet)
    worst = worst_fields({s.name: drawn[s.name] for s in sets if not s.tissue}, WORST)
    return {
        "name": one.name,
        "architecture": one.model.name,
        "identity": one.model.identity,
        "mpp": one.model.mpp,
        "precision": one.model.precision,
        "notes": training_notes(one.name, one.card, sets, split),
        "sets": scores,
        "fields": field_rows(drawn),
        "worst": write_worst(out / "worst", one.name, worst) if out is not None else [],
    }


def training_notes(name: str, card: Card, sets: Sequence[SuiteSet], split: str) -> list[str]:
    """Return what makes scores of a model look better than they are, according to its card."""
    training = card.training
    own, notes = training.get("split"), []
    if card.data and not _is_part_of(split, own):
        notes.append(
            f"{name} was trained with split {own}, so that training may have used images of "
            f"split {split}."
        )
    # Folders that were given as a whole, with everything in them: DIR, DIR=SHARE or DIR@MPP.
    learned = [*training.get("data", ()), *training.get("distillation", {}).get("unlabelled", ())]
    given = {re.split("[=@]", Path(spec).name)[0] for spec in learned}
    given |= {text.split(" (")[0] for text in card.data if not training.get("data")}
    seen = [s.name for s in sets if s.kept_back and {*s.name.split("/")} & given]
    if seen:
        notes.append(f"{name} was trained on {', '.join(seen)}: not kept back for it.")
    return notes


def _is_part_of(split: str, whole: Any) -> bool:
    """Return whether all images of one split are images of another: fold:5/10 is in fold:0/5.

    >>> _is_part_of("fold:5/10", "fold:0/5"), _is_part_of("fold:1/10", "fold:0/5")
    (True, False)
    """
    both = [re.fullmatch(r"fold:(\d+)/(\d+)", str(text)) for text in (split, whole)]
    if not (both[0] and both[1]):
        return split == whole
    (fold, folds), (own, most) = ((int(m[1]), int(m[2])) for m in both if m)
    return folds % most == 0 and fold % most == own


def _settings(config: RunConfig, split: str) -> dict[str, Any]:
    names = ("threshold", "min_area_um2", "min_score", "min_small_score", "min_cell_score", "adapt")
    return {"split": split, **{name: getattr(config, name) for name in names}}


def _describe(one: SuiteSet) -> dict[str, Any]:
    mpps = [field.mpp for field in one.fields]
    return {
        "name": one.name,
        "note": one.note,
        "licence": one.licence or "none stated",
        "images": len(one.fields),
        "images_of_set": one.images,
        "mpp": [min(mpps), max(mpps)],
        "kept_back": one.kept_back,
        "marked": one.marked,
        "left_out": dict(one.left_out),
    }
