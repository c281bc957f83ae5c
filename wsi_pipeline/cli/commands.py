"""What the commands do that make or compare files, apart from `run`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.core.errors import DataError, UsageError, one_line

if TYPE_CHECKING:
    from wsi_pipeline.core.objects import Objects
    from wsi_pipeline.formats.convert import SlideInfo

__all__ = [
    "evaluate_run",
    "export_objects",
    "score_run",
    "synth_fields",
    "synth_slide",
]


def export_objects(source: Path, destination: Path, format: str | None, **options: Any) -> str:
    """Write the objects of a run folder or file in another format; the format taken.

    Raises
    ------
    UsageError, DataError, OutputError
        see `wsi_pipeline.formats.convert.export`
    """
    from wsi_pipeline.formats.convert import export

    format = format or _format_of(destination)
    file = _objects_file(source)
    export(file, destination, format=format, slide=_slide_info(file, options))
    return format


def _format_of(destination: Path) -> str:
    name = destination.name.lower()
    for ending, format in (
        (".geojson.gz", "geojson.gz"),
        (".geojson", "geojson"),
        (".parquet", "parquet"),
        (".coco.json", "coco"),
        (".zarr", "labels"),
    ):
        if name.endswith(ending):
            return format
    raise UsageError(
        f"the name {destination.name!r} tells no format; give --format, or end it in .geojson, "
        ".geojson.gz, .parquet, .coco.json or .ome.zarr"
    )


def _objects_file(source: Path) -> Path:
    """The file of objects that a run folder holds, or the file itself."""
    if not source.is_dir():
        if not source.exists():
            raise DataError(f"{source} does not exist; give a run folder or a file of objects")
        return source
    if not (source / "run.json").is_file():
        raise DataError(f"{source} is no finished run folder; run the slide to its end")
    return source / "objects.parquet"


def _slide_info(file: Path, options: Mapping[str, Any]) -> SlideInfo:
    """What the file's provenance says about its slide."""
    from wsi_pipeline.formats.convert import SlideInfo

    if file.suffix == ".parquet":
        import pyarrow

        from wsi_pipeline.formats.geoparquet import read_metadata

        try:
            header = read_metadata(file)
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{file} is not a GeoParquet file of wsiseg ({one_line(error)})"
            ) from None
    else:
        from wsi_pipeline.formats.geojson import read_header

        header = read_header(file)
    slide = header.get("slide") or {}
    mpp = slide.get("mpp") or {}
    return SlideInfo(
        width=slide.get("width"),
        height=slide.get("height"),
        mpp=(mpp["x"] + mpp["y"]) / 2 if mpp else None,
        file_name=slide.get("file", ""),
        **options,
    )


def score_run(
    source: Path, truth: Path, *, iou: float, class_name: str | None, cells: Path | None = None
) -> dict[str, Any]:
    """How well the objects of a run folder or file agree with the truth, a file of objects.

    With `cells`, a file of true cells, cells and links are compared too. Where that file holds
    nuclei and says which cell holds each, those are the true nuclei instead of `truth`.

    Raises
    ------
    UsageError, DataError
        the threshold makes no sense, or a file cannot be read
    """
    from wsi_pipeline.evaluation.matching import match_objects

    if not 0 < iou <= 1:
        raise UsageError(f"--iou {iou:g} is not above 0 and at most 1; try 0.5")
    if cells is not None:
        if class_name is not None:
            raise UsageError("--cells compares cells and nuclei; leave --class out")
        return _score_cells(source, truth, cells, iou)
    found, true = (_objects(_objects_file(p), class_name) for p in (source, truth))
    match = match_objects(found, true, iou)
    numbers = {
        "F1": match.f1,
        "precision": match.precision,
        "recall": match.recall,
        "mean IoU": match.sq,
    }
    return {
        "objects": match.predicted,
        "truth": match.true,
        "difference": match.predicted - match.true,
        "matched": match.tp,
        **{k: _rounded(v) for k, v in numbers.items()},
        "IoU threshold": iou,
    }


def _score_cells(source: Path, truth: Path, cells: Path, iou: float) -> dict[str, Any]:
    import numpy as np

    from wsi_pipeline.core.objects import CELL_CLASS
    from wsi_pipeline.evaluation.cell_metrics import score_cells

    found, nuclei, whole = (_objects(_objects_file(p), None) for p in (source, truth, cells))
    is_cell = np.array([name == CELL_CLASS for name in whole.classes], np.bool_)[whole.class_index]
    if len(whole) and not is_cell.any():
        raise DataError(f"{cells} has {len(whole)} objects and none of class {CELL_CLASS!r}")
    links = np.full(len(nuclei), -1)
    if whole.parent is not None and not is_cell.all():
        place = np.append(np.where(is_cell, np.cumsum(is_cell) - 1, -1), -1)
        nuclei, links = whole.take(~is_cell), place[whole.parent[~is_cell]]
    scores = score_cells(found, nuclei, whole.take(is_cell), links, iou=iou)
    return {**{k: _rounded(v) for k, v in scores.items()}, "IoU threshold": iou}


def _rounded(value: float) -> float | None:
    """For people: four digits, counts as they are, None where it is undefined."""
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else round(value, 4)


def _objects(file: Path, class_name: str | None) -> Objects:
    from wsi_pipeline.formats.geojson import read_geojson
    from wsi_pipeline.formats.geoparquet import read_parquet

    objects = read_parquet(file) if file.suffix == ".parquet" else read_geojson(file)
    if class_name is None:
        return objects
    if class_name not in objects.classes:
        known = ", ".join(objects.classes) or "none"
        raise UsageError(f"{file} has no class {class_name!r}; it has {known}")
    return objects.take(objects.class_index == objects.classes.index(class_name))


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
) -> dict[str, Any]:
    """How well a model does on COCO sets; what was done, and under ``scores`` the numbers.

    Parameters
    ----------
    score, cut, max_dets
        as in `evaluate_model`; a `max_dets` of 0 is no limit
    out
        folder that gets results.json and results.csv

    Raises
    ------
    UsageError, CheckpointError, DataError, OutputError
        pycocotools is missing; settings, model or data cannot be used; `out` cannot be written
    """
    try:
        import pycocotools  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "masks are compared with pycocotools, which is not installed; pip install wsiseg[train]"
        ) from None
    from wsi_pipeline.evaluation.coco_evaluation import evaluate_model, write_scores
    from wsi_pipeline.segmentation.load_model import open_model

    for name, value in (("score", score), ("cut", cut)):
        if not 0 <= value <= 1:
            raise UsageError(f"--{name} {value:g} is not within 0 and 1; try 0.5")
    if max_dets < 0:
        raise UsageError(f"--max-dets {max_dets} makes no sense; 100 is COCO's, 0 no limit")
    opened = open_model(model, checkpoint=checkpoint, device=device)
    numbers = evaluate_model(
        opened, data, split=split, score=score, cut=cut, max_dets=max_dets or None, quiet=quiet
    )
    about = {
        "model": opened.name, "identity": opened.identity, "mpp": opened.mpp, "data": list(data),
        "split": split, "score": score, "cut": max(score, cut), "max_dets": max_dets,
    }  # fmt: skip
    scores = {
        name: {k: None if math.isnan(v) else v for k, v in column.items()}
        for name, column in numbers.items()
    }
    if out is not None:
        write_scores(out, scores, about)
    return {**about, "scores": scores}


def synth_slide(
    path: Path,
    *,
    width: int,
    height: int,
    mpp: float,
    seed: int,
    tissue: float,
    max_overlap: float | None,
    quiet: bool,
) -> list[Path]:
    """Write a synthetic slide, its nuclei, and its cells with their nuclei; the three files.

    Raises
    ------
    ConfigError, OutputError
        see `wsi_pipeline.synthetic.svs_writer.write_slide`
    """
    from wsi_pipeline.core.progress import progress
    from wsi_pipeline.formats.convert import SlideInfo, export
    from wsi_pipeline.synthetic.svs_writer import (
        plan_slide,
        truth_cells,
        truth_objects,
        write_slide,
    )

    if path.suffix.lower() != ".svs":
        raise UsageError(f"{path} is not named as a slide; end it in .svs, or give --fields")
    plan = plan_slide(width, height, mpp=mpp, seed=seed, tissue=tissue, max_overlap=max_overlap)
    path.parent.mkdir(parents=True, exist_ok=True)
    bar = progress(
        -(-width // 1024) * -(-height // 1024), desc=path.name, unit="block", quiet=quiet
    )
    before = 0

    def advance(done: int, total: int) -> None:
        nonlocal before
        bar.update(done - before)
        before = done

    write_slide(path, plan, progress=advance)
    bar.close()
    files = [path]
    size = {"x": mpp, "y": mpp, "source": "synthetic"}
    slide = {"id": path.stem, "file": path.name, "width": width, "height": height, "mpp": size}
    for name, objects in (("truth", truth_objects(plan)[0]), ("truth-cells", truth_cells(plan))):
        file = path.with_name(f"{path.stem}.{name}.geojson.gz")
        about = SlideInfo(provenance={"slide": slide, "seed": seed})
        export(objects, file, format="geojson.gz", slide=about)
        files.append(file)
    return files


def synth_fields(
    folder: Path, *, count: int, size_px: int, mpp: float | tuple[float, float], seed: int
) -> None:
    """Write synthetic fields with COCO truth; see `wsi_pipeline.synthetic.fields`."""
    from wsi_pipeline.core.errors import OutputError
    from wsi_pipeline.synthetic.svs_writer import write_fields

    try:
        write_fields(folder, count=count, size_px=size_px, mpp=mpp, seed=seed)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); free space?") from error
