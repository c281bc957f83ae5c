"""`wsiseg train MODEL --from`: go on from a finished network, and tell what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.output import table
from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.files import write_json
from wsi_pipeline.core.progress import announce

if TYPE_CHECKING:
    from wsi_pipeline.segmentation.model import Model

__all__ = [
    "COMPARED", "REPLAY", "before_and_after", "from_options", "number", "require_pycocotools",
    "tuned_settings", "with_replay",
]  # fmt: skip

COMPARED = "before_after.json"
"""File of the scores on held-out images, beside the checkpoint."""
REPLAY = "replay"
"""Folder of the generated fields, beside the checkpoint."""
REPLAYED = 16
REPLAY_SHARE = 0.5
"""Weight of the generated fields, of that of all sets together."""
REPLAY_MPP = 0.3, 0.5
REPLAY_PX = 512
_SCORES = ("F1", "mean IoU", "pixel IoU", "AP50")


def require_pycocotools() -> None:
    """Raise a UsageError if the package that reads masks is missing."""
    try:
        import pycocotools  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "training reads masks with pycocotools, which is not installed; "
            "pip install -e '.[train]'"
        ) from None


def from_options() -> list[click.Option]:
    """Make the options that go on from a finished network."""
    start = click.Option(
        ["--from", "from"], metavar="shipped|CHECKPOINT",
        help="Train the network of this checkpoint further, or of the one that ships: a small "
        "rate, few steps, and the network, the pixel size, the classes and the rule of the "
        "checkpoint. Other options win over these. At the end the scores before and after are "
        "printed.",
    )  # fmt: skip
    replay = click.Option(
        ["--replay"], type=click.IntRange(min=0), default=REPLAYED,
        help="With --from: also train on this many generated fields, against forgetting; they are "
        "kept in OUT/replay.",
    )  # fmt: skip
    return [start, replay]


def tuned_settings(model: str, given: Mapping[str, Any], network: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a training, completed by those of the checkpoint of ``--from``.

    Parameters
    ----------
    given
        option name → value, as the user gave them
    network
        names of the network's options

    Raises
    ------
    UsageError, DataError
        the checkpoint cannot be used, or an option does not go with it
    """
    from wsiseg_models.training.fine_tuning import checkpoint_to_tune, presets

    source = given.get("from")
    if source is None:
        if "replay" in given:
            raise UsageError("--replay goes with --from; give --from shipped, or leave it out")
        return dict(given)
    for name in ("initial", "light", "option", "pretrain", *network):
        if given.get(name):
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with --from, which takes the network of "
                "the checkpoint; leave it out"
            )
    try:
        path, card = checkpoint_to_tune(source, model)
    except (ValueError, OSError) as error:
        raise DataError(one_line(error)) from error
    options = {k: v for k, v in card.options.items() if k != "classes"}
    return {**presets(card), **given, "tuned": path, "tuned_options": options}


def with_replay(given: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Return the settings with generated fields among the data; the fields are made if needed."""
    from wsiseg_models.training.config import weighted

    count = given.get("replay", REPLAYED)
    if "tuned" not in given or not count:
        return dict(given)
    folder = given["out"] / REPLAY
    if not (folder / "annotations.json").is_file():
        from wsi_pipeline.synthetic.fields import write_fields

        with announce(f"generating {count} fields in {folder}", quiet=quiet):
            write_fields(
                folder, count=count, size_px=REPLAY_PX, mpp=REPLAY_MPP, look="mixed", per_bank=4,
                seed=1_000 + given.get("seed", 0),
            )  # fmt: skip
    weight = REPLAY_SHARE * sum(weighted(spec)[1] for spec in given["data"])
    return {**given, "data": (*given["data"], f"{folder}={weight:g}")}


def before_and_after(config: Any, path: Path, *, quiet: bool) -> None:
    """Measure both networks on the held-out images of each set; print and store the scores.

    Both are measured as `wsiseg evaluate --data` does it, with the rule of their cards.
    """
    from wsiseg_models.training.config import weighted

    from wsi_pipeline.segmentation.load_model import open_model

    specs = list(dict.fromkeys(weighted(spec)[0] for spec in config.data))
    scores: dict[str, dict[str, Any]] = {spec: {} for spec in specs}
    for name, checkpoint in (("before", config.tuned), ("after", path)):
        model = open_model(config.model, checkpoint=checkpoint, device=config.device)
        for spec in specs:
            scores[spec][name] = _scores(model, spec, config.split, quiet)
    content = {"schema_version": 1, "start": config.tuned.name, "split": config.split}
    write_json(config.out / COMPARED, {**content, "sets": scores})
    if not quiet:
        click.echo(table(_rows(scores)))


def _scores(model: Model, spec: str, split: str, quiet: bool) -> dict[str, dict[str, float]]:
    """Return class → scores on the held-out images of a set; empty where none is held out."""
    from wsi_pipeline.core.errors import DataError
    from wsi_pipeline.evaluation.coco_evaluation import evaluate_model

    if split == "none":
        return {}
    try:
        with announce_compilation(quiet=quiet):
            found, _ = evaluate_model(model, [spec], split=split, max_dets=None)
    except DataError:  # no image of it is held out, or none has truth
        return {}
    names = ("images", "true", "found", *_SCORES)
    return {
        kind: {k: v for k, v in column.items() if k in names and v == v}
        for kind, column in found.items()
        if kind != "all"
    }


def _rows(scores: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> list[list[str]]:
    """Return the table of scores: a row for each set and class, before → after."""
    rows = [["held out", "objects", *_SCORES]]
    for spec, measured in scores.items():
        before, after = measured["before"], measured["after"]
        if not after:
            rows.append([f"{Path(spec).name}: nothing is held out", *[""] * (len(_SCORES) + 1)])
        for kind in after:
            pairs = [(before.get(kind, {}).get(k), after[kind].get(k)) for k in _SCORES]
            cells = [f"{number(a)} → {number(b)}" for a, b in pairs]
            rows.append([f"{Path(spec).name}: {kind}", f"{after[kind]['true']:.0f}", *cells])
    return rows


def number(value: float | None) -> str:
    """Return a score as text."""
    return "–" if value is None else f"{value:.3f}"
