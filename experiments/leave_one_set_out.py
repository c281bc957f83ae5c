"""Leave one set out: train a nucleus model without one set, and measure it on that set.

    python experiments/leave_one_set_out.py ../shared/data --generated SET --work FOLDER
        [--model unet] [--only train|judge] [--whole]

Each set is left out once. All networks have the same small budget of steps (`BUDGET`), so that
their scores are lower bounds: they compare sets and settings, and no shipped model. They start as
`wsiseg train` starts the model: `unet` from ImageNet weights, `dssnet` from random weights. SET is
a generated set with plain stains (`wsiseg synth --fields`), since those of `--look real` were
measured on two of these sets. Training holds out fold:0/5 of every set.

Training resumes set by set: run the same command again. Judging writes
results/leave_one_set_out.md and .json: each left-out set with and without `--adapt`, and beside it
the network that was trained on all sets with the same budget. Both are measured on the held-out
images of the set; with --whole the first also on all of its images, which takes hours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsiseg_models.checkpoint import load_checkpoint, save_checkpoint
from wsiseg_models.training.coco import Split
from wsiseg_models.training.config import SemanticTrainConfig, UNetTrainConfig
from wsiseg_models.training.semantic_data import load_set
from wsiseg_models.training.stain_of_sets import range_of_samples
from wsiseg_models.training.train_semantic import train_semantic
from wsiseg_models.training.weighted_sets import gather_sets

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.suite_fields import measure_field
from wsi_pipeline.evaluation.suite_measures import Compared, score_outlines
from wsi_pipeline.evaluation.suite_sets import SuiteField, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.runs.work_plan import plan_work
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.slide import open_slide

RESULTS = Path(__file__).parent / "results" / "leave_one_set_out.md"
SETS = {
    "isbi2014/train45": "isbi2014/annotations_train45.json",
    "bttfa_lbc": "bttfa_lbc",
    "ccagt_samples": "ccagt_samples",
    "dsb2018_subset": "dsb2018_subset",
    "nucls_samples": "nucls_samples",
}
"""Name of a set in the suite → its place below the data folder."""
ALL = "all sets"
BUDGET: Mapping[str, Any] = {
    "steps": 160, "batch": 4, "crop_px": 192, "mpp": 0.4, "lr": 1e-3, "ema": 0.98,
}  # fmt: skip
"""What every network gets."""
HELD_OUT = "fold:0/5"
MEASURES = ("F1", "recall", "AP50", "area bias")


def checkpoint(work: Path, model: str, left_out: str) -> Path:
    """Return the weights of the network that was trained without a set."""
    return work / model / left_out.replace("/", "_").replace(" ", "_") / f"{model}.safetensors"


def settings(
    data: Path, generated: Path, work: Path, model: str, left_out: str
) -> SemanticTrainConfig:
    """Return how the network without a set is trained."""
    kind = UNetTrainConfig if model == "unet" else SemanticTrainConfig
    real = [str(data / place) for name, place in SETS.items() if name != left_out]
    return kind(
        model=model, data=(*real, str(generated)), split=HELD_OUT, save_every=40, amp=False,
        workers=0, out=checkpoint(work, model, left_out).parent, **BUDGET,
    )  # fmt: skip


def train(config: SemanticTrainConfig) -> None:
    """Train a network, or resume its training; nothing is done where it is finished."""
    path = config.out / f"{config.model}.safetensors"
    if not path.is_file():
        print(f"{config.model}, {config.out.name} left out", flush=True)
        train_semantic(config)
    state, card = load_checkpoint(path)
    if not card.stain:  # trained by a version that did not measure it
        found = gather_sets(config, lambda s: load_set(s, mpp=config.mpp, split=Split(HELD_OUT)))
        entry = range_of_samples(found.samples, found.chances)
        save_checkpoint(path, state, replace(card, stain=entry, sha256=""))


def drawn_in(model: Model, field: SuiteField) -> tuple[Compared | None, Compared | None, bool]:
    """Return what a network draws in a field without and with `--adapt`, and if the two differ.

    The field is a slide of its own, segmented as `wsiseg run` does it; only once where `--adapt`
    keeps its pixels.
    """
    plain, adapting = RunConfig(quiet=True), RunConfig(quiet=True, adapt=True)
    with open_slide(field.path, mpp=field.mpp) as slide:
        changes = plan_work(slide, model, adapting).stain_map is not None
    once = measure_field(field, model, plain, segment_whole).of_nuclei
    if not changes:
        return once, once, False
    return once, measure_field(field, model, adapting, segment_whole).of_nuclei, True


def judge(
    data: Path, work: Path, model: str, known: dict[str, Any], *, whole: bool = False
) -> Iterator[dict[str, Any]]:
    """Measure the networks that are trained, and yield one row per set, training and setting.

    Rows that are in `known`, by their key, are not measured again.
    """
    held = {s.name: s.fields for s in find_sets(data, HELD_OUT)[0]}
    every = {s.name: s.fields for s in find_sets(data, "all")[0]} if whole else {}
    for name, left_out in ((n, without) for n in SETS for without in (n, ALL)):
        path = checkpoint(work, model, left_out)
        rows = {"on all sets, held-out images": held[name]}
        if left_out != ALL:
            more = {"without it, all images": every[name]} if whole else {}
            rows = {**more, "without it, held-out images": held[name]}
        if not path.is_file() or f"{model}, {name}, trained {next(iter(rows))}" in known:
            continue
        network = model_for(RunConfig(checkpoint=path, device="cpu"))
        fields = next(iter(rows.values()))  # the most; the others are among them
        drawn = {field.path: drawn_in(network, field) for field in fields}
        for row, fields in rows.items():
            mine = [drawn[field.path] for field in fields]
            for adapt in (False, True):
                key = f"{model}, {name}, trained {row}{', --adapt' * adapt}"
                known[key] = {
                    "model": model, "set": name, "row": f"trained {row}", "adapt": adapt,
                    "sha256": network.identity, "images": len(mine),
                    "changed": sum(m[2] for m in mine),
                    **score_outlines([m[adapt] for m in mine if m[adapt] is not None]),
                }  # fmt: skip
                yield known[key]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows of one model as a table; with --adapt after the arrow."""
    heads = ("set", "network", "images", "changed by --adapt", "nuclei", *MEASURES)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for plain in (r for r in rows if not r["adapt"]):
        same = ("set", "row")
        changed = next(
            (r for r in rows if r["adapt"] and all(r[k] == plain[k] for k in same)), None
        )
        counts = (plain["images"], plain["changed"], plain["true"])
        cells = [plain["set"], plain["row"], *(f"{n:.0f}" for n in counts)]
        for name in MEASURES:
            after = f" → {changed[name]:.3f}" if changed else ""
            cells.append(f"{plain[name]:.3f}{after}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(known: Mapping[str, Any]) -> None:
    """Write the results of all models."""
    RESULTS.with_suffix(".json").write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    budget = ", ".join(f"{name} {value}" for name, value in BUDGET.items())
    lines = [
        "# Leave one set out",
        "",
        "Written by `experiments/leave_one_set_out.py`. Each network was trained without one set "
        "and measured on that set, segmented as `wsiseg run` does it, without and → with "
        "`--adapt`. The last row of a set is a network with the same budget that was also trained "
        "on four fifths of it.",
        "",
        f"**These are lower bounds.** The budget is small and the same for all: {budget}, one "
        "generated set with plain stains beside the real ones, all drawn equally often (that of "
        "`dssnet`: `wsiseg synth SET --fields 60 --size 512 --mpp 0.35-0.5 --seed 1201`). The "
        "weights that ship had ten times the steps, on larger crops; their scores are in "
        "[suite](suite). Compare rows with each other only.",
    ]
    for model in dict.fromkeys(row["model"] for row in known.values()):
        lines += ["", f"## {model}", "", *table([r for r in known.values() if r["model"] == model])]
    RESULTS.write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    """Train what is missing, then judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with the sets")
    parser.add_argument("--generated", type=Path, required=True, help="generated set")
    parser.add_argument("--work", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--model", choices=("unet", "dssnet"), default="unet")
    parser.add_argument("--whole", action="store_true", help="also measure all images")
    parser.add_argument("--only", choices=("train", "judge"), help="do one part")
    given = parser.parse_args()
    known: dict[str, Any] = {}
    if RESULTS.with_suffix(".json").is_file():
        known = json.loads(RESULTS.with_suffix(".json").read_text("utf-8"))
    if given.only != "judge":
        for left_out in (*SETS, ALL):
            train(settings(given.data, given.generated, given.work, given.model, left_out))
    if given.only != "train":
        for row in judge(given.data, given.work, given.model, known, whole=given.whole):
            print(f"{row['set']}, {row['row']}, adapt {row['adapt']}: F1 {row['F1']:.3f}")
            write(known)


if __name__ == "__main__":
    main()
