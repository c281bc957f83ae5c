"""Choose a nucleus model's threshold and least scores on real held-out images, by a stated rule.

    python experiments/choose_rule.py CHECKPOINT ../shared/data [--split fold:5/10] [--write]

The rule, on every set of the suite that is neither kept back nor of tissue and has at least 20
nuclei in the split:

1. Threshold: the one whose worst area bias is least. The biases are the medians of drawn ÷ true
   area − 1 over all nuclei, the palest quarter and the largest quarter; they are averaged over the
   sets, in absolute value. No score cut while it is chosen.
2. Least scores: at that threshold, the lowest pair whose mean F1 over the sets is within 0.005 of
   the best. A nucleus that is missed is worse than debris that is drawn, which can be seen.

With --write they go into the card of the checkpoint. Judge the model on other images:
`wsiseg evaluate --suite ../shared/data --split fold:0/10`. The two splits share no image and are
together what training held out with fold:0/5. The tables are appended to results/choose_rule.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wsiseg_models.checkpoint import load_checkpoint, save_checkpoint

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.suite_fields import measure_field
from wsi_pipeline.evaluation.suite_measures import score_outlines
from wsi_pipeline.evaluation.suite_sets import SuiteSet, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.nuclei import PixelModel

RESULTS = Path(__file__).parent / "results" / "choose_rule.md"
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
SCORES = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
LEAST_NUCLEI = 20
TOLERANCE = 0.005
BIASES = ("area bias", "area bias, palest quarter", "area bias, largest quarter")

Scores = dict[str, dict[str, float]]


def remembering(network: Callable[[NDArray[np.uint8]], Any]) -> Callable[..., Any]:
    """Return a network that computes each image once."""
    known: dict[bytes, Any] = {}

    def answer(images: NDArray[np.uint8]) -> Any:
        key = hashlib.sha256(np.ascontiguousarray(images)).digest() + repr(images.shape).encode()
        if key not in known:
            known[key] = network(images)
        return known[key]

    return answer


def measure(model: PixelModel, sets: list[SuiteSet], **rule: float) -> Scores:
    """Return set → scores of its nuclei, as the suite measures them."""
    config = RunConfig(quiet=True, **rule)
    out = {}
    for one in sets:
        drawn = [measure_field(field, model, config, segment_whole) for field in one.fields]
        out[one.name] = score_outlines([d.of_nuclei for d in drawn if d.of_nuclei is not None])
    return out


def worst_bias(scores: Scores) -> float:
    """Return the largest of the three biases, each averaged over the sets in absolute value."""
    return max(float(np.nanmean([abs(s[name]) for s in scores.values()])) for name in BIASES)


def mean_f1(scores: Scores) -> float:
    """Return F1 averaged over the sets."""
    return float(np.mean([s["F1"] for s in scores.values()]))


def choose(model: PixelModel, sets: list[SuiteSet], lines: list[str]) -> dict[str, float]:
    """Return the rule; tables of what was measured are appended to `lines`."""
    lines += ["| threshold | worst bias | area bias per set |", "|---|---|---|"]
    biases = {}
    for threshold in THRESHOLDS:
        scores = measure(model, sets, threshold=threshold, min_score=0, min_small_score=0)
        biases[threshold] = worst_bias(scores)
        each = ", ".join(f"{n} {100 * s['area bias']:+.1f} %" for n, s in scores.items())
        lines.append(f"| {threshold:g} | {100 * biases[threshold]:.1f} % | {each} |")
    threshold = min(biases, key=lambda t: (round(biases[t], 3), abs(t - 0.5)))
    lines += ["", f"Threshold {threshold:g}.", "", "| least score | small | mean F1 | F1 |"]
    lines.append("|---|---|---|---|")
    found = {}
    for cut, small in pairs(threshold):
        scores = measure(model, sets, threshold=threshold, min_score=cut, min_small_score=small)
        each = ", ".join(f"{n} {s['F1']:.3f}" for n, s in scores.items())
        lines.append(f"| {cut:g} | {small:g} | {mean_f1(scores):.4f} | {each} |")
        found[cut, small] = mean_f1(scores)
    near = [pair for pair, f1 in found.items() if f1 >= max(found.values()) - TOLERANCE]
    return {"threshold": threshold, "min_score": near[0][0], "min_small_score": near[0][1]}


def pairs(threshold: float) -> Iterator[tuple[float, float]]:
    """Yield pairs of least scores; no mean probability is below the threshold."""
    cuts = [cut for cut in SCORES if cut >= threshold]
    for cut in cuts:
        yield from ((cut, small) for small in cuts if cut <= small <= cut + 0.151)


def main() -> None:
    """Choose, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--split", default="fold:5/10")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = model_for(RunConfig(checkpoint=given.checkpoint, min_score=0, min_small_score=0))
    if not isinstance(model, PixelModel):
        parser.error(f"{given.checkpoint} finds cells; give a nucleus model")
    inner = model.core_network and remembering(model.core_network)
    model = dataclasses.replace(model, network=remembering(model.network), core_network=inner)
    sets, _ = find_sets(given.suite, given.split)
    sets = [s for s in sets if not (s.kept_back or s.tissue or s.marked)]
    sets = [s for s in sets if sum(len(f.nuclei) for f in s.fields) >= LEAST_NUCLEI]
    names = ", ".join(f"{s.name} ({len(s.fields)})" for s in sets)
    lines = [f"## {model.name} {model.identity[:12]}, {given.split}: {names}", ""]
    rule = choose(model, sets, lines)
    text = "\n".join([*lines, "", f"Chosen: {rule}.", ""])
    print(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n" + text)
    if given.write:
        state, card = load_checkpoint(given.checkpoint)
        card = dataclasses.replace(card, rule=rule, sha256="")
        save_checkpoint(given.checkpoint, state, card)


if __name__ == "__main__":
    main()
