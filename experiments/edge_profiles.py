"""Show where annotators drew nuclei: optical density across their outlines.

    python experiments/edge_profiles.py ../shared/data [--split fold:5/10]

For each set with traced nuclei: the median optical density, over all nuclei, at distances from
-1.5 to 1.5 µm of the true outline (negative: outside), and where it rises most steeply. A network
that learns all sets can place its outline without bias on each of them only if they agree. The
table replaces results/edge_profiles.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.evaluation.suite_sets import SuiteField, find_sets

RESULTS = Path(__file__).parent / "results" / "edge_profiles.md"
STEP_UM = 0.1
REACH = 15
SMOOTH = 5
"""Steps over which the slope is averaged; outlines of pixels are no smoother."""


def profiles(field: SuiteField) -> list[NDArray[np.float64]]:
    """Return the optical density across the outline of each nucleus, from outside to inside."""
    image = np.asarray(Image.open(field.path).convert("RGB"), np.float32)
    density = -np.log10((image + 1) / 256).mean(2)
    zoom, around = field.mpp / STEP_UM, int(np.ceil(2 * REACH * STEP_UM / field.mpp))
    found = []
    for nucleus in field.nuclei:
        x0, y0, x1, y1 = (int(v) for v in nucleus.bounds)
        x0, y0 = max(x0 - around, 0), max(y0 - around, 0)
        size = int((x1 + around - x0) * zoom), int((y1 + around - y0) * zoom)
        shift = np.array([x0, y0]) + 0.5 / zoom - 0.5  # centres of pixels lie at half values
        matrix = np.column_stack([np.eye(2) / zoom, shift])
        near = cv2.warpAffine(
            density, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        inside = np.zeros(size[::-1], np.uint8)
        for ring in shapely.get_exterior_ring(shapely.get_parts(nucleus)):
            points = (shapely.get_coordinates(ring) - (x0, y0)) * zoom
            cv2.fillPoly(inside, [np.round(points - 0.5).astype(np.int32)], 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
        depth -= cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
        depth -= inside - 0.5  # centres of pixels at the outline lie half a pixel from it
        steps = np.floor(depth).astype(int) + REACH
        known = (steps >= 0) & (steps < 2 * REACH)
        with np.errstate(invalid="ignore"):
            sums = np.bincount(steps[known], near[known], 2 * REACH)
            found.append(sums / np.bincount(steps[known], minlength=2 * REACH))
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("--split", default="fold:5/10")
    given = parser.parse_args()
    at = [-12, -9, -6, -3, 0, 3, 6, 9, 12]
    head = " | ".join(f"{STEP_UM * a:+.1f}" for a in at)
    lines = [
        "# Where annotators drew nuclei",
        "",
        f"Made by `experiments/edge_profiles.py`, {given.split}. Median optical density at these "
        "distances from the true outline in µm (negative: outside), and the distance at which it "
        "rises most steeply.",
        "",
        f"| set | nuclei | {head} | steepest |",
        "|---|---|" + "---|" * (len(at) + 1),
    ]
    for one in find_sets(given.suite, given.split)[0]:
        found = [row for f in one.fields if f.nuclei is not None for row in profiles(f)]
        if not found:
            continue
        median = np.nanmedian(np.array(found), 0)
        slope = np.convolve(np.diff(median), np.ones(SMOOTH) / SMOOTH, "same")
        # The value of a step lies half a step farther inside than its number, a slope a whole one.
        steepest = STEP_UM * (int(np.nanargmax(slope)) + 1 - REACH)
        values = " | ".join(f"{median[min(REACH + a, 2 * REACH - 1)]:.2f}" for a in at)
        lines.append(f"| {one.name} | {len(found)} | {values} | {steepest:+.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
