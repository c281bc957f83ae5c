"""Time the networks of several models in turns, per tile and per area of a slide.

    python experiments/model_speed.py dssnet unet donet cascade [--checkpoint FILE] [--threads 2]

Each round runs every network once on a tile of its own default size with its halo, as a run does;
the best of the rounds counts, and ratios are to the first model. The table is appended to
results/model_speed.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.synthetic.svs_writer import plan_slide, render

RESULTS = Path(__file__).parent / "results" / "model_speed.md"
ROUNDS = 5


def image_for(model: Model) -> np.ndarray:
    """Return a generated image (1, side, side, 3) of a tile with its halo."""
    side = model.tile_px + 2 * model.halo_px
    return render(plan_slide(side, side, mpp=model.mpp, seed=3, tissue=0.6), Box(0, 0, side, side))[
        None
    ]


def main() -> None:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    models = [
        open_model(name, device=given.device, precision=given.precision) for name in given.models
    ]
    models += [
        open_model("", checkpoint=path, device=given.device, precision=given.precision)
        for path in given.checkpoint
    ]
    torch.set_num_threads(given.threads)
    images = [image_for(model) for model in models]
    best = [np.inf] * len(models)
    for _ in range(ROUNDS):
        for k, (model, image) in enumerate(zip(models, images, strict=True)):
            began = time.perf_counter()
            model.infer_core(image) if isinstance(model, PixelModel) else model.infer(image)
            best[k] = min(best[k], time.perf_counter() - began)
    lines = [
        f"\n{given.threads} threads, {models[0].device}, {models[0].precision}, "
        f"torch {torch.__version__}\n",
        "| model | µm per px | tile px | halo px | s per tile | mm² per s | times the first |",
        "|---|---|---|---|---|---|---|",
    ]
    speeds = [(m.tile_px * m.mpp / 1000) ** 2 / s for m, s in zip(models, best, strict=True)]
    for model, seconds, speed in zip(models, best, speeds, strict=True):
        lines.append(
            f"| {model.name} | {model.mpp:g} | {model.tile_px} | {model.halo_px} | {seconds:.3f} | "
            f"{speed:.3f} | {speed / speeds[0]:.2f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
