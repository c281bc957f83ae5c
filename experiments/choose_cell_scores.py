"""Choose the least scores of a model that finds cells, on held-out images, by a stated rule.

    python experiments/choose_cell_scores.py CHECKPOINT ../shared/data [--generated DIR]
        [--split fold:5/10] [--write]

Each field is segmented once, with the least scores 0.3; lower scores are then left out. A set
counts for cells if the split has at least 20 true cells of it, and for nuclei if it has 20 true
nuclei; sets that are kept back, marked, or of tissue do not count. DIR is a folder of generated
sets, which count too.

1. Cells: the lowest score whose mean F1 over the sets is within 0.005 of the best.
2. Nuclei: the lowest pair of scores, as `choose_rule.py` chooses it: whose mean F1 is within 0.005
   of the best.

With --write they go into the card of the checkpoint. Judge the model on other images, for example
`wsiseg evaluate --suite ../shared/data --split fold:0/10`. The tables are appended to
results/choose_rule.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from wsiseg_models.checkpoint import load_checkpoint, save_checkpoint

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.evaluation.suite_measures import compare, score_outlines
from wsi_pipeline.evaluation.suite_sets import SuiteField, SuiteSet, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.slides.slide import open_slide

RESULTS = Path(__file__).parent / "results" / "choose_rule.md"
FIRST = 0.3
CELL_SCORES = tuple(np.round(np.arange(FIRST, 0.96, 0.05), 2).tolist())
SCORES = tuple(np.round(np.arange(FIRST, 0.86, 0.05), 2).tolist())
LEAST_TRUE = 20
TOLERANCE = 0.005

Found = list[tuple[SuiteField, Objects]]
Keep = Callable[[Objects, NDArray[np.float64]], NDArray[np.bool_]]
"""Objects and their areas in µm² → which of them count."""


def segment(model: Model, one: SuiteSet) -> Found:
    """Return the objects of each field of a set, also those of low scores."""
    config = RunConfig(quiet=True, min_score=FIRST, min_small_score=FIRST)
    out = []
    for field in one.fields:
        with open_slide(field.path, mpp=field.mpp) as slide:
            out.append((field, segment_whole(slide, model, config)))
    return out


def f1(found: Found, keep: Keep, *, cells: bool) -> float:
    """Return F1 of the cells, or of the nuclei, that `keep` chooses."""
    compared = []
    for field, objects in found:
        truth = field.cells if cells else field.nuclei
        assert truth is not None
        shapes = objects.polygons()
        area = np.array([s.area for s in shapes], float) * field.mpp**2
        chosen = (is_cell(objects) == cells) & keep(objects, area)
        compared.append(
            compare(
                shapes[chosen], objects.score[chosen], truth, field.unsure, np.zeros(len(truth)),
                mpp=field.mpp, min_area_um2=RunConfig().min_area_um2,
            )
        )  # fmt: skip
    return score_outlines(compared)["F1"]


def at_least(cut: float, small: float) -> Keep:
    """Return the score rule of two least scores."""
    return lambda objects, area: is_certain(
        objects.score, area, min_score=cut, min_small_score=small
    )


def choose(
    name: str, sets: dict[str, Found], rules: dict[str, Keep], lines: list[str]
) -> str:  # fmt: skip
    """Return the first rule, by its name, whose mean F1 is near the best; add a table."""
    lines += [f"| least score, {name} | mean F1 | F1 |", "|---|---|---|"]
    mean = {}
    for rule, keep in rules.items():
        scores = {one: f1(found, keep, cells=name == "cells") for one, found in sets.items()}
        mean[rule] = float(np.mean(list(scores.values())))
        each = ", ".join(f"{one} {score:.3f}" for one, score in scores.items())
        lines.append(f"| {rule} | {mean[rule]:.4f} | {each} |")
    lines.append("")
    return next(rule for rule, value in mean.items() if value >= max(mean.values()) - TOLERANCE)


def true_objects(one: SuiteSet, *, cells: bool) -> int:
    """Count the true cells, or nuclei, of a set; 0 where it has no such truth."""
    truths = [field.cells if cells else field.nuclei for field in one.fields]
    return 0 if any(t is None for t in truths) else sum(len(t) for t in truths if t is not None)


def main() -> None:
    """Choose, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--generated", type=Path)
    parser.add_argument("--split", default="fold:5/10")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = model_for(
        RunConfig(checkpoint=given.checkpoint, min_score=FIRST, min_small_score=FIRST)
    )
    sets = find_sets(given.suite, given.split)[0]
    if given.generated:
        sets = [*sets, *find_sets(given.generated, given.split)[0]]
    sets = [s for s in sets if not (s.kept_back or s.tissue or s.marked)]
    wanted = {c: [s for s in sets if true_objects(s, cells=c) >= LEAST_TRUE] for c in (True, False)}
    found = {s.name: segment(model, s) for s in sets if s in wanted[True] or s in wanted[False]}
    names = ", ".join(f"{s.name} ({len(s.fields)})" for s in sets if s.name in found)
    lines = [f"## {model.name} {model.identity[:12]}, {given.split}: {names}", ""]
    cell_rules = {f"{c:g}": at_least(c, c) for c in CELL_SCORES}
    pairs = {
        f"{c:g}, small {s:g}": at_least(c, s) for c in SCORES for s in SCORES if c <= s <= c + 0.151
    }
    cell = choose("cells", {s.name: found[s.name] for s in wanted[True]}, cell_rules, lines)
    pair = choose("nuclei", {s.name: found[s.name] for s in wanted[False]}, pairs, lines)
    large, small = pair.split(", small ")
    rule = {
        "min_score": float(large), "min_small_score": float(small), "min_cell_score": float(cell)
    }  # fmt: skip
    text = "\n".join([*lines, f"Chosen: {rule}.", ""])
    print(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n" + text)
    if given.write:
        state, card = load_checkpoint(given.checkpoint)
        card = dataclasses.replace(card, rule=rule, sha256="")
        save_checkpoint(given.checkpoint, state, card, half=True)


if __name__ == "__main__":
    main()
