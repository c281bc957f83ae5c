"""What the commands do that make or compare files, apart from `run`."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import DataError, UsageError

if TYPE_CHECKING:
    from wsi_pipeline.export import SlideInfo
    from wsi_pipeline.objects import Objects

__all__ = ["export_objects", "score_run", "synth_fields", "synth_slide", "train_model"]


def export_objects(source: Path, destination: Path, format: str | None, **options: Any) -> str:
    """Write the objects of a run folder or file in another format; the format taken.

    Raises
    ------
    UsageError, DataError, OutputError
        see `wsi_pipeline.export.export`
    """
    from wsi_pipeline.export import export

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
    from wsi_pipeline.export import SlideInfo

    if file.suffix == ".parquet":
        import pyarrow

        from wsi_pipeline.export.parquet import read_metadata

        try:
            header = read_metadata(file)
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(f"{file} is not a GeoParquet file of wsiseg ({_said(error)})") from None
    else:
        from wsi_pipeline.export.geojson import read_header

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


def score_run(source: Path, truth: Path, *, iou: float, class_name: str | None) -> dict[str, Any]:
    """How well the objects of a run folder or file agree with the truth, a file of objects.

    Raises
    ------
    UsageError, DataError
        the threshold makes no sense, or a file cannot be read
    """
    from wsi_pipeline.metrics import match_objects

    if not 0 < iou <= 1:
        raise UsageError(f"--iou {iou:g} is not above 0 and at most 1; try 0.5")
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
        **{k: None if math.isnan(v) else round(v, 4) for k, v in numbers.items()},
        "IoU threshold": iou,
    }


def _objects(file: Path, class_name: str | None) -> Objects:
    from wsi_pipeline.export.geojson import read_geojson
    from wsi_pipeline.export.parquet import read_parquet

    objects = read_parquet(file) if file.suffix == ".parquet" else read_geojson(file)
    if class_name is None:
        return objects
    if class_name not in objects.classes:
        known = ", ".join(objects.classes) or "none"
        raise UsageError(f"{file} has no class {class_name!r}; it has {known}")
    return objects.take(objects.class_index == objects.classes.index(class_name))


def synth_slide(
    path: Path, *, width: int, height: int, mpp: float, seed: int, tissue: float, quiet: bool
) -> list[Path]:
    """Write a synthetic slide, its nuclei and its cells; the three files.

    Raises
    ------
    ConfigError, OutputError
        see `wsi_pipeline.synth.write_slide`
    """
    from wsi_pipeline.export import SlideInfo, export
    from wsi_pipeline.progress import progress
    from wsi_pipeline.synth import plan_slide, truth_objects, write_slide

    if path.suffix.lower() != ".svs":
        raise UsageError(f"{path} is not named as a slide; end it in .svs, or give --fields")
    plan = plan_slide(width, height, mpp=mpp, seed=seed, tissue=tissue)
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
    for name, objects in zip(("truth", "truth-cells"), truth_objects(plan), strict=True):
        file = path.with_name(f"{path.stem}.{name}.geojson.gz")
        about = SlideInfo(provenance={"slide": slide, "seed": seed})
        export(objects, file, format="geojson.gz", slide=about)
        files.append(file)
    return files


def synth_fields(
    folder: Path, *, count: int, size_px: int, mpp: float | tuple[float, float], seed: int
) -> None:
    """Write synthetic fields with COCO truth; see `wsi_pipeline.synth.write_fields`."""
    from wsi_pipeline.errors import OutputError
    from wsi_pipeline.synth import write_fields

    try:
        write_fields(folder, count=count, size_px=size_px, mpp=mpp, seed=seed)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); free space?") from error


def train_model(settings: dict[str, Any], *, device: str, quiet: bool) -> Path:
    """Train with the keywords of `TrainConfig`, and zoom, stain and grey; the checkpoint.

    Raises
    ------
    UsageError, DataError
        pycocotools is missing, or settings or data cannot be used
    """
    try:
        import pycocotools  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "training reads its masks with pycocotools, which is not installed; "
            "pip install wsiseg[train]"
        ) from None
    from wsiseg_models.datasets import Augmentation
    from wsiseg_models.registry import MODELS
    from wsiseg_models.train import TrainConfig, predict_image, train

    from wsi_pipeline.describe import describe_model
    from wsi_pipeline.evaluate import nucleus_f1
    from wsi_pipeline.registry import device_named

    describe_model(settings["model"])
    known = signature(MODELS[settings["model"]].builder).parameters
    for option in settings["options"]:
        if option not in known:
            raise UsageError(f"{settings['model']} has no {option}; it has {', '.join(known)}")
    where = device_named(device)
    zoom, stain, grey = (settings.pop(k) for k in ("zoom", "stain", "grey"))
    try:
        augmentation = Augmentation(scale=zoom, stain=stain, grey=grey)
        config = TrainConfig(**settings, device=where, augmentation=augmentation)
    except ValueError as error:
        raise UsageError(_said(error)) from error

    def score(network: Any, decode: Any, held: Any) -> dict[str, Any]:
        return nucleus_f1(lambda image: predict_image(network, decode, image, where), held)

    try:
        # A bar is for a terminal; elsewhere log.jsonl tells how it goes.
        path: Path = train(config, quiet=quiet or not sys.stderr.isatty(), score=score)
        return path
    except KeyError as error:
        raise DataError(f"training data lack the entry {error}; see docs/models.md") from error
    except (ValueError, OSError, pickle.UnpicklingError) as error:
        raise DataError(_said(error)) from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
