"""`wsiseg train nucleus_kinds`: learn the kinds of nuclei from what a reader labelled."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cli.fine_tune import COMPARED, REPLAY, number, require_pycocotools
from wsi_pipeline.cli.options import NEW_FOLDER, quiet_option
from wsi_pipeline.cli.output import table
from wsi_pipeline.cli.train import KINDS as KINDS_NAME
from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.files import as_output_error, write_json, write_text
from wsi_pipeline.core.progress import announce

if TYPE_CHECKING:
    from wsiseg_models.checkpoint import Card
    from wsiseg_models.kinds.labelled import Labelled
    from wsiseg_models.kinds.network import KindNet
    from wsiseg_models.kinds.tune import Examples

__all__ = ["train_kinds"]

REPLAYED, REPLAY_PX, REPLAY_MPP, REPLAY_SEED = 12, 512, (0.25, 0.45), 1_000
"""Number of generated fields, their side, pixel sizes and seed."""
VIEWS, REPLAY_VIEWS = 8, 2
"""Changed copies of each labelled and each replayed nucleus."""
_EQUAL = (0.25, 0.25, 0.25, 0.25)
_SHOWN = ("AUC", "right", "normal", "abnormal", "no cell")


@dataclass(frozen=True, eq=False)
class _Set:
    """The labelled nuclei of one set, with their features float32 (views, n, features)."""

    name: str
    weight: float
    data: Labelled
    features: NDArray[np.float32]

    def learned(self) -> Examples:
        """Return the nuclei that are not held out."""
        from wsiseg_models.kinds.tune import Examples

        use = ~self.data.held
        weight = np.full(int(use.sum()), self.weight, np.float32)
        return Examples(self.features[:, use], self.data.allowed[use], weight)


@click.command(
    KINDS_NAME, short_help="kinds of nuclei, from the labels of the review page; with --from"
)
@click.option(
    "--from", "start", metavar="shipped|CHECKPOINT",
    help="Train the head of this checkpoint further, or of the one that ships. Encoder, limits and "
    "prior stay.",
)  # fmt: skip
@click.option(
    "--data", multiple=True, required=True, metavar="DIR[@MPP][=WEIGHT]",
    help="Learn the labels of this set, from `wsiseg dataset from-review` or `from-qupath "
    "--labels`. Repeatable.",
)  # fmt: skip
@click.option(
    "--out", type=NEW_FOLDER, required=True, help="Write checkpoint, log and scores here."
)
@click.option("--steps", type=click.IntRange(min=1), default=200, help="Set the number of steps.")
@click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True, max=1), default=1e-3,
    help="Set the highest learning rate.",
)  # fmt: skip
@click.option(
    "--replay", type=click.IntRange(min=0), default=REPLAYED,
    help="Also train on the nuclei of this many generated fields, against forgetting; they are "
    "kept in OUT/replay.",
)  # fmt: skip
@click.option(
    "--split", default="fold:0/5", metavar="fold:K/N|time:SHARE|none",
    help="Hold out images of sets that do not state which: fold:K/N every Nth, time:SHARE the last "
    "ones, none.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Set the random seed.")
@quiet_option
def train_kinds(
    start: str | None, data: tuple[str, ...], out: Path, quiet: bool, **settings: Any
) -> None:
    """Train nucleus_kinds further on labelled nuclei. It sorts by appearance; no diagnosis.

    NILM is normal; ASC-US, LSIL, ASC-H, HSIL, SCC, AGC and AIS are abnormal; "not a cell" is
    leukocyte or other, which of them stays open; an object of the class leukocyte is one. Nuclei
    without a label are not used. The same command gives the same weights.
    """
    from wsiseg_models.kinds.labelled import read_labelled
    from wsiseg_models.training.coco import Split
    from wsiseg_models.training.config import weighted

    if start is None:
        raise UsageError(
            "give --from shipped, or --from CHECKPOINT; a network of kinds from nothing is made by "
            "experiments/nucleus_kinds.py"
        )
    require_pycocotools()
    try:
        network, card, path = _started(start)
        split = Split(settings["split"])
        found = [(*weighted(spec), read_labelled(weighted(spec)[0], split)) for spec in data]
        _check([(name, labelled) for name, _, labelled in found])
        sets = [_looked_at(network, card, *one, views=VIEWS, quiet=quiet) for one in found]
        replay = _replayed(network, card, out, settings["replay"], quiet)
    except (ValueError, OSError) as error:
        raise DataError(one_line(error)) from error
    judged = [*sets, *([replay] if replay else [])]
    before = [_scores(network, card, one) for one in judged]
    log = _tune(network, card, sets, replay, settings)
    after = [_scores(network, card, one) for one in judged]
    names = [one.name for one in judged]
    compared = {n: {"before": a, "after": b} for n, a, b in zip(names, before, after, strict=True)}
    _save(out, network, card, path, sets, replay, compared, settings, log)
    if not quiet:
        click.echo(table(_rows(compared)))
        click.echo(f"{out / f'{KINDS_NAME}.safetensors'}  (log: {out / 'log.jsonl'})")


def _started(start: str) -> tuple[KindNet, Card, Path]:
    """Return the network to train further, its card and its file."""
    from wsiseg_models.checkpoint import weights_path
    from wsiseg_models.kinds.network import load_kinds
    from wsiseg_models.training.fine_tuning import SHIPPED

    path = weights_path(KINDS_NAME) if start == SHIPPED else Path(start)
    return *load_kinds(path), path


def _looked_at(
    network: KindNet, card: Card, name: str, weight: float, data: Labelled, *, views: int,
    quiet: bool,
) -> _Set:  # fmt: skip
    """Compute the features of the labelled nuclei of a set."""
    from wsiseg_models.kinds.train import KindSet, embed

    with announce(f"looking at {len(data.labels)} labelled nuclei of {name}", quiet=quiet):
        crops = KindSet(data.crops, data.allowed.argmax(1))
        return _Set(name, weight, data, embed(network, card, crops, views=views).features)


def _check(sets: Sequence[tuple[str, Labelled]]) -> None:
    """Refuse labels from which nothing can be learned."""
    for name, one in sets:
        if not one.labels:
            raise DataError(
                f"{name} has no labelled nucleus; label some on the review page, and make the set "
                "with `wsiseg dataset from-review`"
            )
    names = ", ".join(name for name, _ in sets)
    learned = Counter(
        label for _, one in sets
        for label, held in zip(one.labels, one.held, strict=True) if not held
    )  # fmt: skip
    if not learned:
        raise DataError(f"{names}: all labels are held out; give --split none, or label more")
    groups = {tuple(row) for _, one in sets for row in one.allowed[~one.held].tolist()}
    if len(groups) == 1:
        told = ", ".join(f"{n} {label}" for label, n in learned.items())
        raise DataError(
            f"{names} has labels of one kind alone to learn from ({told}); label nuclei of another "
            "kind, too: `wsiseg gallery --count 200` shows more of them"
        )


def _replayed(network: KindNet, card: Card, out: Path, count: int, quiet: bool) -> _Set | None:
    """Return the nuclei of generated fields, which are made if they are not there."""
    from wsiseg_models.kinds.labelled import read_labelled
    from wsiseg_models.training.coco import Split, read_coco

    from wsi_pipeline.synthetic.fields import write_fields

    if not count:
        return None
    folder = out / REPLAY
    file = folder / "annotations.json"
    if not file.is_file() or len(read_coco(file).images) != count:
        with announce(f"generating {count} fields in {folder}", quiet=quiet):
            write_fields(
                folder, count=count, size_px=REPLAY_PX, mpp=REPLAY_MPP, look="real", per_bank=4,
                seed=REPLAY_SEED,
            )  # fmt: skip
    data = read_labelled(str(folder), Split("fold:0/5"))
    return _looked_at(network, card, REPLAY, 1.0, data, views=REPLAY_VIEWS, quiet=quiet)


def _tune(
    network: KindNet, card: Card, sets: Sequence[_Set], replay: _Set | None,
    settings: Mapping[str, Any],
) -> str:  # fmt: skip
    """Train the head, and return the log."""
    from wsiseg_models.kinds.tune import Examples, tune_head

    began = time.monotonic()
    losses = tune_head(
        network, Examples.joined([one.learned() for one in sets]),
        replay.learned() if replay else None, prior=_prior(card), steps=settings["steps"],
        rate=settings["lr"], seed=settings["seed"],
    )  # fmt: skip
    minutes = round((time.monotonic() - began) / 60, 3)
    lines = [
        {"step": stop, "loss": round(float(np.mean(losses[max(0, stop - 20) : stop])), 5)}
        for stop in sorted({*range(20, len(losses), 20), len(losses)})
    ]
    lines[-1]["minutes"] = minutes
    return "".join(json.dumps(line) + "\n" for line in lines)


def _prior(card: Card) -> tuple[float, ...]:
    """Return how common the kinds are where the probabilities of a network hold."""
    stated = card.training.get("prior")
    if not isinstance(stated, Mapping) or set(stated) != set(card.classes):
        return _EQUAL
    return tuple(float(stated[kind]) for kind in card.classes)


def _scores(network: KindNet, card: Card, one: _Set) -> Mapping[str, float]:
    """Measure a network on the held-out nuclei of a set; nothing where none is held out."""
    from wsiseg_models.kinds.train import kind_probabilities

    from wsi_pipeline.evaluation.kind_scores import kind_scores

    held = one.data.held
    if not held.any():
        return {}
    limits = tuple(card.rule.get(kind, 0.5) for kind in card.classes)
    found = kind_probabilities(network, one.features[0, held])
    return kind_scores(found, one.data.allowed[held], limits)


def _save(
    out: Path, network: KindNet, card: Card, start: Path, sets: Sequence[_Set],
    replay: _Set | None, compared: Mapping[str, Any], settings: Mapping[str, Any], log: str,
) -> None:  # fmt: skip
    """Write log, scores and checkpoint, the checkpoint last."""
    from wsiseg_models.checkpoint import save_checkpoint

    counts = Counter(label for one in sets for label in one.data.labels)
    origin = [text for one in (*sets, *([replay] if replay else [])) for text in one.data.origin]
    about = {**card.training, "tuned from": card.sha256, **settings, "labels": dict(counts)}
    tuned = replace(
        card, data=tuple(dict.fromkeys([*card.data, *origin])), training=about,
        metrics={**card.metrics, "before and after": dict(compared)},
    )  # fmt: skip
    content = {"schema_version": 1, "start": start.name, "split": settings["split"]}
    with as_output_error(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "log.jsonl", log)
        write_json(out / COMPARED, {**content, "sets": compared})
        save_checkpoint(out / f"{KINDS_NAME}.safetensors", network.state_dict(), tuned)


def _rows(compared: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """Return the table of scores: a row for each set, before → after."""
    rows = [["held out", "labels", *_SHOWN]]
    for name, scores in compared.items():
        before, after = scores["before"], scores["after"]
        if not after:
            rows.append([f"{Path(name).name}: nothing is held out", *[""] * (1 + len(_SHOWN))])
            continue
        counts = "/".join(str(after.get(f"labels {k}", 0)) for k in _SHOWN[2:])
        pairs = [f"{number(before.get(k))} → {number(after.get(k))}" for k in _SHOWN]
        rows.append([Path(name).name, counts, *pairs])
    return rows
