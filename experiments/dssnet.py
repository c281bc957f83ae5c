"""Measure DSSNet's halo, pixel size, thresholds and speed, the first three on held-out images.

    python experiments/dssnet.py halo|mpp|splitting|speed CHECKPOINT --data DIR … [--split fold:0/5]

The defaults of the checkpoint's card and of `RunConfig` rest on these figures. The script prints
Markdown and appends it to experiments/results/dssnet.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from wsiseg_models import registry
from wsiseg_models.semantic.dssnet import DSSNet
from wsiseg_models.training.coco import Split
from wsiseg_models.training.receptive_field import CORE_PX, HALOS, crop_error
from wsiseg_models.training.semantic_data import Sample, load_set
from wsiseg_models.training.train_semantic import predict_image

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.evaluation.nucleus_metrics import nucleus_f1
from wsi_pipeline.synthetic.svs_writer import plan_slide, render

RESULTS = Path(__file__).parent / "results" / "dssnet.md"
Predict = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def record(text: str) -> None:
    """Print `text` and append it to the results."""
    print(text, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def held_out(data: list[str], mpp: float, split: str) -> list[Sample]:
    """Return the held-out samples of all sets, resized to `mpp`."""
    return [s for spec in data for s in load_set(spec, mpp=mpp, split=Split(split))[1]]


def halo(predict: Predict, mpp: float) -> None:
    """Measure how much context decides a pixel: cores with each halo against the whole field."""
    side = CORE_PX + 2 * DSSNet.context_px
    halos = (16, *HALOS, DSSNet.context_px)
    fields = [
        render(plan_slide(side, side, mpp=mpp, seed=seed, tissue=0.95), Box(0, 0, side, side))
        for seed in (1, 2, 3, 4)
    ]
    errors = [crop_error(predict, field, halos) for field in fields]
    record(
        "\n## Halo\n\n| halo px | largest difference, of 255 | bytes that differ | sides of 0.5 |"
    )
    record("|---|---|---|---|")
    for i, margin in enumerate(halos):
        mine, whole = np.stack([e[i] for e in errors], 1)
        off = np.abs(mine - whole)
        flips = ((mine >= 128) != (whole >= 128)).sum()
        record(f"| {margin} | {off.max()} | {(off > 0).mean():.1e} | {flips} |")


def sweep(predict: Predict, data: list[str], split: str) -> None:
    """Measure F1 of each set at several pixel sizes, with the same network."""
    table: dict[float, dict[str, dict[str, float]]] = {}
    for mpp in (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7):
        table[mpp] = nucleus_f1(predict, held_out(data, mpp, split))
    groups = list(next(iter(table.values())))
    record("\n## Pixel size: nucleus F1 at IoU 0.5 (mean IoU of matches)\n")
    record("| µm per px | " + " | ".join(groups) + " | mean |\n" + "|---" * (len(groups) + 2) + "|")
    for mpp, row in table.items():
        cells = [f"{row[g]['nucleus F1']:.3f} ({row[g]['nucleus mean IoU']:.3f})" for g in groups]
        mean = np.mean([row[g]["nucleus F1"] for g in groups])
        record(f"| {mpp} | " + " | ".join(cells) + f" | {mean:.3f} |")


def splitting(predict: Predict, data: list[str], mpp: float, split: str) -> None:
    """Measure F1 for several saddle ratios, thresholds and score cuts."""
    samples = held_out(data, mpp, split)
    cache = {id(s.image): predict(s.image) for s in samples}

    def again(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return cache[id(image)]

    usual = {"saddle_ratio": 0.8, "threshold": 0.5, "min_score": 0.55, "min_small_score": 0.65}
    changes: list[dict[str, float]] = [{}, {"saddle_ratio": 0.0}, {"saddle_ratio": 0.7}]
    changes += [{"threshold": t} for t in (0.4, 0.6)]
    changes += [{"min_score": s, "min_small_score": s} for s in (0.0, 0.55, 0.6, 0.65)]
    changes += [{"min_small_score": s} for s in (0.65, 0.68, 0.7)]
    rows: dict[tuple[float, ...], dict[str, dict[str, float]]] = {}
    for change in changes:
        choice = usual | change
        rows[tuple(choice.values())] = nucleus_f1(
            again, samples, split=choice["saddle_ratio"] > 0, min_area_um2=8.0, **choice
        )
    groups = list(next(iter(rows.values())))
    record("\n## Splitting, threshold and score cut: nucleus F1 at IoU 0.5\n")
    columns = ("saddle ratio", "threshold", "score cut", "under 30 µm²", *groups, "mean")
    record(f"| {' | '.join(columns)} |")
    record("|---" * (len(groups) + 5) + "|")
    for choice_, row in rows.items():
        values = [row[g]["nucleus F1"] for g in groups]
        cells = " | ".join(f"{v:.3f}" for v in [*values, float(np.mean(values))])
        record(f"| {' | '.join(f'{v or 0:g}' for v in choice_)} | {cells} |")


def seconds(variant: str, batch: int = 4, calls: int = 5) -> float:
    """Return the time per 512² tile of the fastest of `calls` calls of one variant."""
    network = registry.build("dssnet")
    dtype = torch.bfloat16 if "bfloat16" in variant else torch.float32
    # In training mode the training heads are computed too; nothing else differs.
    network.train("all heads" in variant)
    if "all heads" not in variant:
        network = registry.MODELS["dssnet"].for_inference(network)
    if "rewritten" in variant:
        network = registry.MODELS["dssnet"].faster(network)
    if "memory kept" in variant:
        keep_freed_memory()
    network = network.to(dtype)
    x = torch.randn(batch, 3, 512, 512).to(dtype)
    if "channels last" in variant or "rewritten" in variant:
        x = x.contiguous(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(calls):
            began = time.perf_counter()
            network(x)
            best = min(best, time.perf_counter() - began)
    return best / batch


VARIANTS = (
    "as published: float32, all heads",
    "main head alone",
    "main head, channels last",
    "rewritten",
    "rewritten, memory kept",
    "rewritten, memory kept, bfloat16",
)


def speed(rounds: int = 3) -> None:
    """Measure tiles per second of each step from the published network to the one that runs."""
    best = dict.fromkeys(VARIANTS, float("inf"))
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for name in VARIANTS:  # one process each, since a variant may change how memory is kept
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                best[name] = min(best[name], pool.submit(seconds, name).result())
    record(f"\n## Speed, tiles of 512² in batches of 4, {torch.get_num_threads()} threads, CPU\n")
    record("| | tiles/s | times as published |\n|---|---|---|")
    for name, each in best.items():
        record(f"| {name} | {1 / each:.2f} | {best[VARIANTS[0]] / each:.1f} |")


def main() -> None:
    """Run the part that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("halo", "mpp", "splitting", "speed"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--split", default="fold:0/5")
    arguments = parser.parse_args()
    network, decode, card = registry.load(arguments.checkpoint)

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return predict_image(network, decode, image, "cpu")

    RESULTS.parent.mkdir(exist_ok=True)
    if arguments.what == "speed":
        speed()
    elif arguments.what == "halo":
        halo(predict, card.mpp)
    elif arguments.what == "mpp":
        sweep(predict, arguments.data, arguments.split)
    else:
        splitting(predict, arguments.data, card.mpp, arguments.split)


if __name__ == "__main__":
    main()
