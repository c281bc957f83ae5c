"""Measure the splitting of touching nuclei on real clumps, for several saddle ratios.

    python experiments/splitting.py ../shared/data [--model unet] [--split fold:0/5]

A true nucleus is in a clump if it lies within `TOUCHING_UM` of another one. For each ratio (0: no
splitting): the share of nuclei in clumps, and of all others, that are found (IoU of 0.5 or more),
and F1 of all. Only sets with at least 20 nuclei in clumps count. The table is appended to
results/splitting.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from choose_rule import LEAST_NUCLEI, remembering
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.matching import geometry_overlaps, match_overlaps
from wsi_pipeline.evaluation.suite_fields import measure_field
from wsi_pipeline.evaluation.suite_measures import SAME_NUCLEUS_IOU
from wsi_pipeline.evaluation.suite_sets import SuiteField, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation import nuclei
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.segmentation.split_touching import split_touching

RESULTS = Path(__file__).parent / "results" / "splitting.md"
RATIOS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
TOUCHING_UM = 0.8


def in_clump(field: SuiteField, truth: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which of the true nuclei of a field lie within `TOUCHING_UM` of another."""
    a, b = shapely.STRtree(truth).query(
        truth, predicate="dwithin", distance=TOUCHING_UM / field.mpp
    )
    found = np.zeros(len(truth), np.bool_)
    found[a[a != b]] = True
    return found


def row(
    drawn: Sequence[NDArray[np.object_]],
    truth: Sequence[NDArray[np.object_]],
    clumps: Sequence[NDArray[np.bool_]],
) -> str:
    """Return the columns of one ratio from the nuclei of each field."""
    counts = np.zeros(5, int)  # found and all in clumps, found and all others, drawn
    for mine, true, clump in zip(drawn, truth, clumps, strict=True):
        match = match_overlaps(geometry_overlaps(mine, true, 0.3), SAME_NUCLEUS_IOU)
        found = np.zeros(len(true), np.bool_)
        found[match.pairs[:, 1]] = True
        parts = (found & clump), clump, (found & ~clump), ~clump
        counts += [*(int(part.sum()) for part in parts), len(mine)]
    a, b, c, d, n = counts
    alone = f"{c / d:.3f} of {d}" if d else "–"
    return f"{a / b:.3f} of {b} | {alone} | {n} | {2 * (a + c) / (b + d + n):.3f}"


def main() -> None:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--split", default="fold:0/5")
    given = parser.parse_args()
    config = RunConfig(model=given.model, checkpoint=given.checkpoint, quiet=True)
    model = model_for(config)
    if not isinstance(model, PixelModel):
        parser.error(f"{model.name} finds cells; give a nucleus model")
    inner = model.core_network and remembering(model.core_network)
    model = dataclasses.replace(model, network=remembering(model.network), core_network=inner)
    sets, _ = find_sets(given.suite, given.split)
    lines = [
        f"## {model.name} {model.identity[:12]}, {given.split}",
        "",
        "| set | saddle ratio | in clumps: found, of | others: found, of | drawn | F1 |",
        "|---|---|---|---|---|---|",
    ]
    for one in sets:
        fields = [f for f in one.fields if f.nuclei is not None]
        truth = [f.nuclei[shapely.area(f.nuclei) * f.mpp**2 >= config.min_area_um2] for f in fields]
        clumps = [in_clump(f, t) for f, t in zip(fields, truth, strict=True)]
        if sum(c.sum() for c in clumps) < LEAST_NUCLEI:
            continue
        for saddle in RATIOS:
            nuclei.split_touching = functools.partial(split_touching, saddle_ratio=saddle)
            drawn = [measure_field(f, model, config, segment_whole).nuclei for f in fields]
            lines.append(f"| {one.name} | {saddle:g} | {row(drawn, truth, clumps)} |")
            print(lines[-1], flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
