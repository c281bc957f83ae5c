"""Scores of a model on COCO sets (`wsiseg evaluate`): find, compare, store as a table.

This module can be imported without pycocotools, which only the comparison needs.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.files import as_output_error, write_json, write_text
from wsi_pipeline.core.objects import CELL_CLASS
from wsi_pipeline.core.progress import progress

if TYPE_CHECKING:
    from wsi_pipeline.evaluation.pixel_metrics import PixelCounts
    from wsi_pipeline.segmentation.model import Model

__all__ = ["evaluate_model", "evaluate_run", "require_pycocotools", "score_rows", "write_scores"]


def evaluate_run(
    model: str,
    checkpoint: Path | None,
    data: Sequence[str],
    *,
    device: str,
    split: str,
    score: float,
    cut: float,
    max_dets: int,
    out: Path | None,
    quiet: bool,
    partial: bool = False,
) -> dict[str, Any]:
    """Open a model, compare what it finds in COCO sets with their truth, and store the scores.

    Parameters
    ----------
    model, checkpoint, device
        see `open_model`
    data, split
        see `read_set`
    score, cut, max_dets
        see `evaluate_model`; a `max_dets` of 0 is no limit
    out
        folder that gets results.json, results.csv and, where there are cells, overlap.csv; None:
        nothing is stored
    quiet
        show no progress
    partial
        of a detector: only some objects are marked, and boxes outside the marks do not count

    Returns
    -------
    dict
        the settings; under ``left_out`` set → reason → number of images and annotations that are
        not used; under ``scores`` class → name → value, None where undefined; under
        ``overlap`` group → name → value of the parts of cells, empty without cells; of a network
        that classifies pixels under ``pixels`` the same of pixels, and under ``published`` what
        its paper reports of other images; of one with several classes of nuclei under ``classes``
        `score_classes`

    Raises
    ------
    UsageError, CheckpointError, DataError, OutputError
        pycocotools is missing; settings, model or data cannot be used; `out` cannot be written
    """
    require_pycocotools()
    from wsi_pipeline.evaluation.box_evaluation import evaluate_boxes
    from wsi_pipeline.segmentation.boxes import BoxModel
    from wsi_pipeline.segmentation.load_model import open_model

    for name, value in (("score", score), ("cut", cut)):
        if not 0 <= value <= 1:
            raise UsageError(f"--{name} {value:g} must be between 0 and 1; try 0.5")
    if max_dets < 0:
        raise UsageError(f"--max-dets {max_dets} must not be negative; 100 is COCO's, 0 no limit")
    opened = open_model(model, checkpoint=checkpoint, device=device)
    counts: dict[str, PixelCounts] = {}
    kinds: dict[str, dict[str, float]] = {}
    about: dict[str, Any] = {"split": split, "score": score, "cut": cut, "quiet": quiet}
    about["max_dets"] = max_dets or None
    left_out: dict[str, dict[str, int]] = {}
    about["left_out"] = left_out
    more: dict[str, Any] = {"left_out": left_out}
    parts: Mapping[str, Mapping[str, float]] = {}
    if isinstance(opened, BoxModel):
        numbers = evaluate_boxes(opened, data, partial=partial, **about)
        more |= {"boxes": True, "partial": partial}
    elif partial:
        raise UsageError(f"--partial is for detectors, and {opened.name} draws outlines; leave it")
    else:
        about |= {"pixels": counts, "kinds": kinds, "categories": _categories(checkpoint)}
        numbers, parts = evaluate_model(opened, data, **about)
    settings = {
        "model": opened.name, "identity": opened.identity, "mpp": opened.mpp, "data": list(data),
        "split": split, "score": score, "cut": max(score, cut), "max_dets": max_dets,
    }  # fmt: skip
    scores, overlap = _without_nan(numbers), _without_nan(parts)
    if counts:
        more["pixels"] = _without_nan({name: c.scores() for name, c in counts.items()})
        more["published"] = _published(opened, checkpoint)
    if kinds:
        more["classes"] = _without_nan(kinds)
    if out is not None:
        write_scores(out, scores, overlap, {**settings, **more})
    return {**settings, "scores": scores, "overlap": overlap, **more}


def _without_nan(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return a table of scores with None in place of NaN."""
    return {
        name: {k: None if math.isnan(v) else v for k, v in column.items()}
        for name, column in table.items()
    }


def _categories(checkpoint: Path | None) -> tuple[str, ...]:
    """Return the COCO category with which each class of a checkpoint was trained, where stated."""
    from wsi_pipeline.segmentation.model import read_card

    trained = {} if checkpoint is None else read_card(checkpoint).training
    return tuple(trained.get("categories", ()))


def _published(model: Model, checkpoint: Path | None) -> dict[str, float]:
    """Return what the paper of this network reports of pixels; empty where it reports none."""
    from wsi_pipeline.evaluation.pixel_metrics import published_scores
    from wsi_pipeline.segmentation.model import read_card

    if checkpoint is None:
        return {}
    encoder = str(read_card(checkpoint).options.get("encoder", "none"))
    return published_scores(model.name, model.classes, encoder)


def require_pycocotools() -> None:
    """Raise a UsageError that names the remedy where pycocotools is not installed."""
    try:
        import pycocotools  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "masks are compared with pycocotools, which is not installed; pip install -e '.[train]'"
        ) from None


def evaluate_model(
    model: Model,
    specs: Sequence[str],
    *,
    split: str = "all",
    score: float = 0.05,
    cut: float = 0.5,
    max_dets: int | None = 100,
    quiet: bool = True,
    pixels: dict[str, PixelCounts] | None = None,
    kinds: dict[str, dict[str, float]] | None = None,
    categories: Sequence[str] = (),
    left_out: dict[str, dict[str, int]] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the scores of a model over all images of the sets, and those of the parts of cells.

    See `score_instances` and `score_parts`; the second is empty where the model or the sets have no
    cells. It is of cells with a score of at least `cut`.

    Parameters
    ----------
    specs, split
        see `read_set`
    score
        predictions below this score are ignored
    cut, max_dets
        see `score_class`
    pixels
        gets the pixels of each class, of a network that classifies pixels
    kinds
        gets the scores of each class of nuclei, of a network that has several
    categories
        COCO category of each of these classes; by default it has the name of the class
    left_out
        gets for each of `specs` the number of images and annotations that are not used, by reason

    Raises
    ------
    UsageError, DataError
        see `read_set`; or a set has none of the model's classes
    """
    from wsi_pipeline.evaluation.class_metrics import score_classes, truth_of_classes
    from wsi_pipeline.evaluation.coco_fields import read_set
    from wsi_pipeline.evaluation.find_masks import classes_of, find_in, nucleus_classes
    from wsi_pipeline.evaluation.hidden_part_masks import mask_parts
    from wsi_pipeline.evaluation.hidden_parts import score_parts
    from wsi_pipeline.evaluation.mask_metrics import judged, score_instances
    from wsi_pipeline.evaluation.pixel_metrics import count_pixels, recorded
    from wsi_pipeline.segmentation.nuclei import PixelModel, nuclei_only

    names, answers = model.classes, list[Any]()
    if isinstance(model, PixelModel) and pixels is not None:
        model, answers = recorded(model)
    model = nuclei_only(model)
    classes, several = classes_of(model), nucleus_classes(model)
    wanted = (categories or several) if several else ()
    found, truth = [], []
    for spec in specs:
        bar = progress(0, desc=f"{model.name} on {spec}", unit="image", quiet=quiet)
        counts = Counter[str]()
        for field in read_set(spec, mpp=model.mpp, split=split, nuclei=wanted, left_out=counts):
            if not set(classes) & set(field.truth):
                known = ", ".join(field.truth) or "nothing"
                raise DataError(f"{spec} has truth for {known}, not for {' or '.join(classes)}")
            own = truth_of_classes(field.nuclei, several, wanted, spec) if several else {}
            truth.append({**field.truth, **own})
            found.append(judged(find_in(model, field.image, score=score), truth[-1]))
            if answers and pixels is not None:
                count_pixels(pixels, names, answers.pop()[0], truth[-1])
            bar.update()
        bar.close()
        (left_out if left_out is not None else {})[spec] = dict(sorted((+counts).items()))
    scores = score_instances(found, truth, classes, cut=cut, max_dets=max_dets)
    if several and kinds is not None:
        kinds |= score_classes(found, truth, several, cut=cut)
    parts = [
        mask_parts(f[CELL_CLASS].above(cut), t[CELL_CLASS])
        for f, t in zip(found, truth, strict=True)
        if CELL_CLASS in f and CELL_CLASS in t
    ]
    return scores, score_parts(parts) if parts else {}


def score_rows(scores: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """Return scores of `evaluate_model` or `evaluate_boxes` as text, one column per class."""
    from wsi_pipeline.evaluation.mask_metrics import COUNTS

    rows = [["", *scores]]
    for name in scores["all"]:
        values = [column.get(name) for column in scores.values()]
        digits = 0 if name in (*COUNTS, "elsewhere") else 6 if name == "FPp" else 4
        rows.append([name, *("–" if v is None else f"{v:.{digits}f}" for v in values)])
    return rows


def write_scores(
    folder: Path,
    scores: Mapping[str, Mapping[str, float | None]],
    overlap: Mapping[str, Mapping[str, float | None]],
    settings: Mapping[str, Any],
) -> None:
    """Write results.json with everything, results.csv with `scores` and overlap.csv with `overlap`.

    Undefined scores are null in the one and empty in the other.

    Raises
    ------
    OutputError
        the folder or a file cannot be written
    """
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", {**settings, "scores": scores, "overlap": overlap})
    write_text(folder / "results.csv", _as_csv(scores))
    if overlap:
        write_text(folder / "overlap.csv", _as_csv(overlap))


def _as_csv(scores: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return a table of scores, one column per class or group, as CSV."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["score", *scores])
    writer.writerows([k, *(column.get(k) for column in scores.values())] for k in scores["all"])
    return table.getvalue()
