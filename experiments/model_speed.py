"""Time the networks of several models in turns, per tile and per area of a slide.

    python experiments/model_speed.py dssnet unet donet cascade [--checkpoint FILE] [--threads 2]
    python experiments/model_speed.py --model dssnet --model plain_unet --model unetpp …

Each round runs every network once on a tile of its own default size with its halo, as a run does;
the best of the rounds counts, and ratios are to the first model. With --model, networks with fresh
weights take turns on a tile of 512 px without a halo, as in the comparison of Luo et al. 2022; its
figures, of a GTX 1080 Ti, stand beside. Speed does not depend on weights. `plain_unet` is the U-Net
of 31 million parameters of that comparison. The table is appended to results/model_speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from wsiseg_models.registry import MODELS
from wsiseg_models.semantic.plain_unet import unet

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.segmentation.load_model import device_named, open_model
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.synthetic.svs_writer import plan_slide, render

RESULTS = Path(__file__).parent / "results" / "model_speed.md"
SIDE_PX = 512
PUBLISHED = {
    "dssnet": 156, "plain_unet": 31, "unetpp": 14, "pgunet": 37, "erfnet": 83, "dfanet": 120,
}  # fmt: skip
"""Tiles of 512 px per second on a GTX 1080 Ti (Luo et al. 2022)."""


def image_for(model: Model) -> np.ndarray:
    """Return a generated image (1, side, side, 3) of a tile with its halo."""
    side = model.tile_px + 2 * model.halo_px
    return render(plan_slide(side, side, mpp=model.mpp, seed=3, tissue=0.6), Box(0, 0, side, side))[
        None
    ]


def fresh(name: str, device: str, dtype: torch.dtype) -> tuple[torch.nn.Module, float]:
    """Return a network with fresh weights, as it runs on slides, and its million parameters."""
    torch.manual_seed(0)
    if name == "plain_unet":
        network: torch.nn.Module = unet().eval().requires_grad_(False)
        faster = MODELS["unet"].faster
    else:
        entry = MODELS[name]
        options = {k: v for k, v in entry.inference_options.items() if k.endswith("_head")}
        network, faster = entry.for_inference(entry.builder(**options)), entry.faster
    count = sum(p.numel() for p in network.parameters()) / 1e6
    return faster(network).to(device, dtype).to(memory_format=torch.channels_last), count


@torch.inference_mode()
def tiles_per_second(
    names: Sequence[str], device: str, precision: str, batch: int, rounds: int
) -> str:
    """Time networks with fresh weights in turns; return the table."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    built = {name: fresh(name, device, dtype) for name in names}
    networks = {name: network for name, (network, _) in built.items()}
    x = torch.randn(batch, 3, SIDE_PX, SIDE_PX, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    best = dict.fromkeys(names, np.inf)
    for turn in range(rounds + 1):
        for name, network in networks.items():
            began = time.perf_counter()
            network(x)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:  # the first one warms up
                best[name] = min(best[name], time.perf_counter() - began)
    lines = [
        f"\n{torch.get_num_threads()} threads, {device}, {dtype}, batches of {batch}, fresh "
        f"weights, torch {torch.__version__}\n",
        "| network | million parameters | tiles per s | published | times the first | published |",
        "|---|---|---|---|---|---|",
    ]
    first = names[0]
    for name in names:
        count = built[name][1]
        speed, known = batch / best[name], PUBLISHED.get(name)
        ratio = f"{known / PUBLISHED[first]:.2f}" if known and first in PUBLISHED else "–"
        faster = f"{best[first] / best[name]:.2f} | {ratio}"
        lines.append(f"| {name} | {count:.2f} | {speed:.2f} | {known or '–'} | {faster} |")
    return "\n".join(lines) + "\n"


def per_area(given: argparse.Namespace) -> str:
    """Time models with their weights in turns; return the table."""
    models = [
        open_model(name, device=given.device, precision=given.precision) for name in given.models
    ]
    models += [
        open_model("", checkpoint=path, device=given.device, precision=given.precision)
        for path in given.checkpoint
    ]
    images = [image_for(model) for model in models]
    best = [np.inf] * len(models)
    for _ in range(given.rounds):
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
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*")
    parser.add_argument("--model", dest="fresh", action="append", default=[])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path, action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    text = ""
    if given.fresh:
        device = device_named(given.device)
        text += tiles_per_second(given.fresh, device, given.precision, given.batch, given.rounds)
    if given.models or given.checkpoint:
        text += per_area(given)
    print(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
