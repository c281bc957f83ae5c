"""Measure the loop of docs/correct-and-learn.md: before, and after a few corrected fields.

    python experiments/correct_and_learn.py set MODEL ../shared/data/SET OUT [--fields 10]
    python experiments/correct_and_learn.py slide MODEL OUT
    python experiments/correct_and_learn.py forget MODEL OUT/MODEL.safetensors SETS

`set` takes annotated fields of a set as what a person corrected. It trains the network that ships
further on `--fields` of them, evenly spread over the images that fold:0/5 does not hold out, and
measures both networks on fold:0/5, which no choice of a setting used. `--fold 1` measures on
fold:1/5 instead, for choices; frames of a film are split by time.

`slide` generates two slides of a stain that no training had. On the first, areas are corrected: the
true objects replace those of the run, and go the way of QuPath's export through `wsiseg dataset
from-qupath` and `wsiseg train --from shipped`. `wsiseg score` measures the second before and after.

`forget` measures both networks on all sets (`wsiseg evaluate --suite`). Each appends to
results/correct_and_learn.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from click.testing import CliRunner
from wsiseg_models.training.coco import Split, read_coco

from wsi_pipeline.cli.main import cli
from wsi_pipeline.cli.output import table
from wsi_pipeline.formats.convert import SlideInfo, export
from wsi_pipeline.formats.geojson import write_annotations
from wsi_pipeline.synthetic.placement import SlidePlan, plan_slide
from wsi_pipeline.synthetic.render import truth_cells, truth_objects
from wsi_pipeline.synthetic.stains import Style
from wsi_pipeline.synthetic.svs_writer import write_slide

RESULTS = Path(__file__).parent / "results" / "correct_and_learn.md"
SLIDE_PX, SLIDE_MPP = 3000, 0.25
AREAS = ((300, 300), (1700, 300), (300, 1100), (1100, 1100), (1900, 1100), (300, 1900),
         (1100, 1900), (1900, 1900))  # fmt: skip
AREA_PX = 600
STYLE = Style(
    stains=np.array(
        [[0.10, 0.55, 1.10], [0.75, 0.25, 0.10], [0.60, 0.10, 0.20], [0.35, 0.05, 0.35]],
        np.float32,
    ),
    white=(246.0, 240.0, 214.0), nucleus=0.5, cytoplasm=1.1, eosin=1.0, blur_um=0.25, noise=2.0,
    shade=0.03,
)  # fmt: skip
"""Pale yellow nuclei in violet and cyan cytoplasm: no stain of any training."""


def wsiseg(*args: object) -> str:
    """Run a command in this process; return what it printed."""
    result = CliRunner().invoke(cli, [str(a) for a in args])
    if result.exit_code:
        raise SystemExit(result.output)
    return result.stdout


def note(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table, and append it to the results."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(f"\n{title}\n\n{text}\n")
    print(f"{title}\n{table(rows)}", flush=True)


FRAMES = {"dic_hela": 0.19}
"""Sets of frames that follow each other, whose objects are whole cells → their µm per pixel."""


def make_set(source: Path, out: Path, fields: int, fold: int) -> tuple[int, int]:
    """Write a set of `fields` images to train on, and all of the fold held out.

    Frames are split by time: the first half is trained on, the last quarter is fold 0, and the
    quarter before it is fold 1. Their cells become the objects that the network draws.
    """
    document = json.loads((source / "annotations.json").read_text("utf-8"))
    images = read_coco(source / "annotations.json").images
    if source.name in FRAMES:
        held, never = ([start <= i / len(images) < start + size for i in range(len(images))]
                       for start, size in ((0.75 - fold / 4, 0.25), (0.5, 0.5)))  # fmt: skip
        document["categories"] = [{"id": 2, "name": "nucleus"}]
        for entry in document["images"]:
            entry["mpp"] = FRAMES[source.name]
    else:
        held = Split(f"fold:{fold}/5").of_images(images)
        never = Split("fold:0/5").of_images(images)
    others = [i for i, h, n in zip(images, held, never, strict=True) if not (h or n)]
    taken = {others[k * len(others) // fields].name for k in range(min(fields, len(others)))}
    kept = {image.name for image, h in zip(images, held, strict=True) if h}
    chosen = [
        {**entry, "held_out": entry["file_name"] in kept}
        for entry in document["images"]
        if entry["file_name"] in taken | kept
    ]
    ids = {entry["id"] for entry in chosen}
    marks = [a for a in document["annotations"] if a["image_id"] in ids]
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "images").exists():
        os.symlink((source / "images").resolve(), out / "images")
    content = {**document, "images": chosen, "annotations": marks}
    (out / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return len(taken), len(kept)


def learn_set(model: str, source: Path, out: Path, fields: int, fold: int, more: list[str]) -> None:
    """Train on fields of a set, and note the scores before and after."""
    trained, held = make_set(source, out / "set" / source.name, fields, fold)
    began = time.monotonic()
    spec = out / "set" / source.name
    wsiseg("train", model, "--from", "shipped", "--data", spec, "--out", out, "--device", "cpu",
           *more)  # fmt: skip
    rows = compared(out, (time.monotonic() - began) / 60)
    about = f"{model} on {source.name}: {trained} fields, measured on {held} of fold:{fold}/5"
    note(" ".join([about, *more]), rows)


def compared(out: Path, minutes: float) -> list[list[str]]:
    """Return the table of before_after.json."""
    sets = json.loads((out / "before_after.json").read_text("utf-8"))["sets"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    rows = [["held out", "class", "objects", "F1", "pixel IoU", "mean IoU", "minutes"]]
    spent = f"{log[-1]['minutes']:.1f} training, {minutes:.1f} in all"
    for spec, measured in sets.items():
        for kind, after in measured["after"].items():
            before = measured["before"].get(kind, {})
            values = [
                f"{before.get(k, 0):.3f} → {after.get(k, 0):.3f}"
                for k in ("F1", "pixel IoU", "mean IoU")
            ]
            rows.append([Path(spec).name, kind, f"{after['true']:.0f}", *values, spent])
    return rows


def generate(path: Path, seed: int) -> SlidePlan:
    """Write a generated slide of the stain that no training had."""
    plan = plan_slide(
        SLIDE_PX, SLIDE_PX, mpp=SLIDE_MPP, seed=seed, tissue=0.9, density=90, style=STYLE
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_slide(path, plan)
    return plan


def learn_slide(model: str, out: Path, more: list[str]) -> None:
    """Correct areas of one slide, train, and note the scores on another slide."""
    cells = model not in ("dssnet", "unet")
    for name, seed in (("corrected", 5), ("other", 6)):
        slide = out / f"{name}.svs"
        plan = generate(slide, seed)
        truth = truth_cells(plan) if cells else truth_objects(plan)[0]
        export(truth, out / f"{name}.geojson", slide=SlideInfo())
        wsiseg("run", slide, "--model", model, "--out", out / "before", "--device", "cpu")
    boxes = [shapely.box(x, y, x + AREA_PX, y + AREA_PX) for x, y in AREAS]
    write_annotations(out / "areas.geojson", boxes, ["checked"] * len(boxes))
    shown = wsiseg(
        "dataset", "from-qupath", out / "corrected.svs", out / "corrected.geojson", "--run",
        out / "before" / "corrected" / model, "--area", out / "areas.geojson", "--out",
        out / "areas",
    )  # fmt: skip
    print(shown)
    began = time.monotonic()
    wsiseg("train", model, "--from", "shipped", "--data", out / "areas", "--out", out / "tuned",
           "--device", "cpu", *more)  # fmt: skip
    minutes = (time.monotonic() - began) / 60
    wsiseg("run", out / "other.svs", "--checkpoint", out / "tuned" / f"{model}.safetensors",
           "--out", out / "after", "--device", "cpu")  # fmt: skip
    scores = [
        json.loads(wsiseg("score", out / when / "other" / model, out / "other.geojson", "--json"))
        for when in ("before", "after")
    ]
    rows = [["", "before", "after"]]
    rows += [[k, f"{a:.3f}", f"{b:.3f}"] for k, a, b in _numbers(*scores)]
    title = f"{model} on a generated slide of another stain, scored on a second one"
    note(" ".join([title, *more]), [*rows, ["minutes", "", f"{minutes:.1f}"]])
    note("its held-out areas", compared(out / "tuned", minutes))


def _numbers(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return name and both values of the scores that are numbers in both."""
    return [
        (k, v, after[k])
        for k, v in before.items()
        if isinstance(v, int | float) and isinstance(after.get(k), int | float)
    ]


def forget(model: str, checkpoint: Path, sets: Path, more: list[str]) -> None:
    """Measure the network that ships and the one that was trained further, on all sets."""
    call = ("evaluate", "--suite", sets, "--model", model, "--checkpoint", checkpoint)
    content = json.loads(wsiseg(*call, "--json", "--device", "cpu", *more))
    first, second = (one["sets"] for one in content["models"])
    names = ("F1", "foreground IoU", "recall", "drawn per mark")
    rows = [["set", *names]]
    for name in first:
        for kind, before in first[name].items():
            after = second[name].get(kind, {})
            if isinstance(before, dict):
                cells = [f"{_text(before.get(k))} → {_text(after.get(k))}" for k in names]
                rows.append([f"{name}: {kind}", *cells])
    about = f"{model}, shipped → {checkpoint.parent.name}, on the held-out images of all sets"
    note(" ".join([about, *more]), rows)


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("set")
    one.add_argument("model")
    one.add_argument("source", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--fields", type=int, default=10)
    one.add_argument("--fold", type=int, default=0)
    two = commands.add_parser("slide")
    two.add_argument("model")
    two.add_argument("out", type=Path)
    three = commands.add_parser("forget")
    three.add_argument("model")
    three.add_argument("checkpoint", type=Path)
    three.add_argument("sets", type=Path)
    given, more = parser.parse_known_args()
    if given.command == "set":
        learn_set(given.model, given.source, given.out, given.fields, given.fold, more)
    elif given.command == "slide":
        learn_slide(given.model, given.out, more)
    else:
        forget(given.model, given.checkpoint, given.sets, more)


if __name__ == "__main__":
    main()
