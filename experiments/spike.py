"""Does the spike test tell how many nuclei a model finds? Compare it with the true recall.

    python experiments/spike.py ../shared/data --work FOLDER [--models unet dssnet]

Generated slides: one for each stain of `STAINS`, 3072 px wide, kept in FOLDER. Real fields: the
held-out images (fold:0/5) of the sets with traced nuclei, and the marked ones of cric_fields; each
image is a slide of its own, and its stain is that of the whole set where it shows too few nuclei.
Writes results/spike.json and prints the tables of results/spike.md; what is in that file already
is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.evaluation.spike import IOU, KINDS, SpikedField, each_spike, spike_slide, wilson
from wsi_pipeline.evaluation.spike_field import PLACES
from wsi_pipeline.evaluation.spike_stain import SlideStain, measure_slide
from wsi_pipeline.evaluation.suite_fields import measure_field
from wsi_pipeline.evaluation.suite_sets import SuiteSet, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.synthetic.looks import LOOKS, LookName
from wsi_pipeline.synthetic.placement import plan_slide
from wsi_pipeline.synthetic.render import truth_kinds, truth_objects
from wsi_pipeline.synthetic.sprites import Bank
from wsi_pipeline.synthetic.stains import draw_real_style, draw_style
from wsi_pipeline.synthetic.svs_writer import SlidePlan, write_slide

RESULTS = Path(__file__).parent / "results" / "spike.json"
STAINS = ("pap", "brown", "real 1", "real 2", "real 3")
"""Stains of `draw_style`, and three draws of `draw_real_style` with the look "real"."""
SETS = ("bttfa_lbc", "ccagt_samples", "cric_fields", "isbi2014/edf_tiles_nuclei",
        "isbi2014/train45")  # fmt: skip
SIDE, MPP, COUNT, PER_IMAGE, STAIN_MPP = 3072, 0.25, 120, 36, 0.4

Row = dict[str, Any]


def plan(stain: str) -> SlidePlan:
    """Plan a generated slide."""
    rng = np.random.default_rng([STAINS.index(stain), 3])
    look: LookName = "real" if stain.startswith("real") else "plain"
    real = look == "real"
    style = draw_real_style(rng) if real else draw_style(rng, stain)  # type: ignore[arg-type]
    bank = Bank.paint(MPP, style, count=256, seed=5, look=LOOKS[look])
    return plan_slide(SIDE, SIDE, mpp=MPP, seed=7, tissue=0.6, style=style, bank=bank, look=look)


def on_generated(model: Model, stain: str, work: Path) -> Row:
    """Compare spike and truth on one generated slide."""
    path, planned = work / f"{stain.replace(' ', '_')}.svs", plan(stain)
    if not path.is_file():
        write_slide(path, planned)
    truth, _ = truth_objects(planned)
    cell_kinds = truth_kinds(planned)[0]
    kinds = np.array([cell_kinds[c] for c in planned.nucleus_cell])
    with open_slide(path) as slide:
        found = segment_whole(slide, model, RunConfig(quiet=True))
        match = match_objects(found, truth, IOU)
        hit = np.isin(np.arange(len(truth)), match.pairs[:, 1])
        fields = spike_slide(slide, model, RunConfig(), segment_whole, count=COUNT).fields
    same = float(np.mean([hit[kinds == kind].mean() for kind in KINDS if (kinds == kind).any()]))
    return row(fields) | {"recall": float(match.recall), "true": len(truth), "recall_kinds": same}


def row(fields: Sequence[SpikedField]) -> Row:
    """Return number of laid and of found cells, in all and at each place."""
    rated = [(s.place, iou >= IOU) for _, s, iou, _ in each_spike(fields)]
    usual = [hit for place, hit in rated if place != "faint"]
    out: Row = {"laid": len(usual), "found": sum(usual)}
    for place in PLACES:
        own = [hit for p, hit in rated if p == place]
        out[place] = [sum(own), len(own)]
    return out


def stains_of(one: SuiteSet) -> list[SlideStain]:
    """Return the stain of each image, that of the whole set where it cannot be measured."""
    images = []
    for field in one.fields:
        with open_slide(field.path, mpp=field.mpp) as slide:
            images.append(scaled(slide, field.mpp))
    whole = measure_slide(images, STAIN_MPP)
    stains = []
    for image in images:
        try:
            stains.append(measure_slide([image], STAIN_MPP))
        except DataError:
            stains.append(whole)
    return stains


def scaled(slide: Slide, mpp: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a whole image at the pixel size at which stains are measured."""
    step = STAIN_MPP / mpp
    return slide.read_scaled(Box(0, 0, int(slide.width / step), int(slide.height / step)), step)


def on_set(model: Model, one: SuiteSet) -> Row:
    """Compare spike and truth on the images of a set."""
    fields: list[SpikedField] = []
    true = hits = images = 0
    for field, stain in zip(one.fields, stains_of(one), strict=True):
        drawn = measure_field(field, model, RunConfig(quiet=True), segment_whole)
        if drawn.marks is not None:
            true += len(drawn.marks.nucleus)
            hits += int((drawn.marks.nucleus >= 0).sum())
        elif drawn.of_nuclei is not None:
            true += drawn.of_nuclei.match.true
            hits += drawn.of_nuclei.match.tp
        with open_slide(field.path, mpp=field.mpp) as slide:
            try:
                spiked = spike_slide(
                    slide, model, RunConfig(), segment_whole, count=PER_IMAGE, stain=stain
                )
            except DataError:  # no cell found a place
                continue
        fields += spiked.fields
        images += 1
    return row(fields) | {"recall": hits / true, "true": true, "images": images}


def measure(data: Path, work: Path, models: Sequence[str], rows: dict[str, Row]) -> Iterator[None]:
    """Measure what is not in `rows` yet, and add it there."""
    sets = {one.name: one for one in find_sets(data, "fold:0/5")[0]}
    opened = {name: model_for(RunConfig(model=name)) for name in models}
    for place in (*SETS, *STAINS):
        for name, model in opened.items():
            key = f"{name}: {place}"
            if key not in rows:
                print(key, flush=True)
                generated = place in STAINS
                rows[key] = (
                    on_generated(model, place, work) if generated else on_set(model, sets[place])
                )
                yield


def percent(found: int, count: int) -> str:
    """Return a share with its interval."""
    if not count:
        return "–"
    low, high = wilson(found, count)
    return f"{found / count:.0%} ({low:.0%} to {high:.0%}, {count})"


def tables(rows: dict[str, Row]) -> Iterator[str]:
    """Yield the lines of the tables."""
    for title, places in (("Real fields", SETS), ("Generated slides", STAINS)):
        own = [(k, r) for k, r in rows.items() if k.split(": ", 1)[1] in places]
        yield from (f"## {title}", "")
        yield f"| model: set | nuclei | recall | of laid kinds | spike | {' | '.join(PLACES)} |"
        yield "|" + "---|" * (5 + len(PLACES))
        for key, one in own:
            kinds = f"{one['recall_kinds']:.1%}" if "recall_kinds" in one else "–"
            at = " | ".join(percent(*one.get(p, (0, 0))) for p in PLACES)
            yield (
                f"| {key} | {one['true']} | {one['recall']:.1%} | {kinds} | "
                f"{percent(one['found'], one['laid'])} | {at} |"
            )
        known = [(r.get("recall_kinds", r["recall"]), r["found"] / r["laid"]) for _, r in own
                 if r["laid"]]  # fmt: skip
        if len(known) > 2:
            recall, spike = np.array(known).T
            rank, more = spearmanr(recall, spike).statistic, spike - recall
            yield ""
            yield (
                f"Rank correlation of recall and spike over {len(known)} rows: {rank:.2f}; spike "
                f"is {more.mean():+.1%} on average, at most {more.max():+.1%}."
            )
        faint = [(r["recall"], r["faint"][0] / r["faint"][1]) for _, r in own if "faint" in r]
        if len(faint) > 2:
            rank = spearmanr(*np.array(faint).T).statistic
            yield f"Rank correlation of recall and faint cells over {len(faint)} rows: {rank:.2f}."
        yield ""


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] + " Writes results/spike.md."
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for generated slides")
    parser.add_argument("--models", nargs="+", default=["unet", "dssnet"])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for _ in measure(args.data, args.work, args.models, rows):
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
