"""Choose the least score of a model's whole cells on held-out images, by a stated rule.

    python experiments/choose_cell_scores.py CHECKPOINT ../shared/data [--generated DIR]
        [--split fold:5/10] [--write]

Each field is segmented once, with the least scores 0.3; cells of lower scores are then left out. A
set counts if the split has at least 20 true cells of it; sets that are kept back do not. DIR is a
folder of generated sets, which count too.

The rule: the lowest score whose mean F1 of cells over the sets is within 0.005 of the best.

With --write it goes into the card of the checkpoint, where the least scores of nuclei stay. Judge
the model on other images, for example `wsiseg evaluate --suite ../shared/data --split fold:0/10`.
The table is appended to results/choose_rule.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from wsiseg_models.checkpoint import load_checkpoint, save_checkpoint

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.evaluation.suite_measures import compare, score_outlines
from wsi_pipeline.evaluation.suite_sets import SuiteField, SuiteSet, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.slide import open_slide

RESULTS = Path(__file__).parent / "results" / "choose_rule.md"
FIRST = 0.3
SCORES = tuple(np.round(np.arange(FIRST, 0.96, 0.05), 2).tolist())
LEAST_TRUE = 20
TOLERANCE = 0.005

Found = list[tuple[SuiteField, Objects]]


def segment(model: Model, one: SuiteSet) -> Found:
    """Return the cells of each field of a set, also those of low scores."""
    config = RunConfig(quiet=True, min_cell_score=FIRST)
    out = []
    for field in one.fields:
        with open_slide(field.path, mpp=field.mpp) as slide:
            objects = segment_whole(slide, model, config)
        out.append((field, objects.take(is_cell(objects))))
    return out


def f1(found: Found, cut: float) -> float:
    """Return F1 of the cells with at least the score `cut`."""
    compared = []
    for field, cells in found:
        assert field.cells is not None
        kept = cells.take(cells.score >= np.float32(cut))
        compared.append(
            compare(
                kept.polygons(), kept.score, field.cells, field.unsure, np.zeros(len(field.cells)),
                mpp=field.mpp, min_area_um2=RunConfig().min_area_um2,
            )
        )  # fmt: skip
    return score_outlines(compared)["F1"]


def choose(sets: dict[str, Found], lines: list[str]) -> float:
    """Return the lowest score whose mean F1 is near the best; a table is appended to `lines`."""
    lines += ["| least score of cells | mean F1 | F1 |", "|---|---|---|"]
    mean = {}
    for cut in SCORES:
        scores = {one: f1(found, cut) for one, found in sets.items()}
        mean[cut] = float(np.mean(list(scores.values())))
        each = ", ".join(f"{one} {score:.3f}" for one, score in scores.items())
        lines.append(f"| {cut:g} | {mean[cut]:.4f} | {each} |")
    return min(cut for cut, value in mean.items() if value >= max(mean.values()) - TOLERANCE)


def true_cells(one: SuiteSet) -> int:
    """Count the true cells of a set; 0 where it has no such truth."""
    return sum(0 if field.cells is None else len(field.cells) for field in one.fields)


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
    model = model_for(RunConfig(checkpoint=given.checkpoint, min_cell_score=FIRST))
    sets = find_sets(given.suite, given.split)[0]
    if given.generated:
        sets = [*sets, *find_sets(given.generated, given.split)[0]]
    sets = [s for s in sets if true_cells(s) >= LEAST_TRUE and not s.kept_back]
    found = {s.name: segment(model, s) for s in sets}
    names = ", ".join(f"{s.name} ({len(s.fields)})" for s in sets)
    lines = [f"## Cells of {model.name} {model.identity[:12]}, {given.split}: {names}", ""]
    score = choose(found, lines)
    text = "\n".join([*lines, "", f"Chosen: least score of a cell {score:g}.", ""])
    print(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n" + text)
    if given.write:
        state, card = load_checkpoint(given.checkpoint)
        rule = {**card.rule, "min_cell_score": score}
        card = dataclasses.replace(card, rule=rule, sha256="")
        save_checkpoint(given.checkpoint, state, card, half=True)


if __name__ == "__main__":
    main()
