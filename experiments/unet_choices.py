"""Compare encoders, generated fields and augmentation of `unet`, each with the same small budget.

    python experiments/unet_choices.py ../shared/data --plain SET --real SET --work FOLDER

trains one network per line of `VARIANTS` and writes results/unet_choices.md. What differs is the
one thing that the line names; the rest is the first line. The second line, with another seed, shows
how much is chance. The budget is small (`BUDGET`), so the figures compare the lines with each other
and no shipped model. SET are generated fields with `--look plain` and with `--look real`. Training
holds out fold:0/5; a choice may look at fold:5/10, which is half of it; fold:0/10, the other half,
and the kept-back sets judge it.

Training resumes: run the same command again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from leave_one_set_out import SETS
from wsiseg_models import registry
from wsiseg_models.training.augment import Augmentation
from wsiseg_models.training.config import UNetTrainConfig
from wsiseg_models.training.train_semantic import train_semantic

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.suite_fields import measure_model
from wsi_pipeline.evaluation.suite_sets import find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import model_for

RESULTS = Path(__file__).parent / "results" / "unet_choices.md"
BUDGET: Mapping[str, Any] = {
    "steps": 200, "batch": 4, "crop_px": 192, "mpp": 0.4, "lr": 1e-3, "ema": 0.98,
}  # fmt: skip
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "lite0, plain and real look": {},
    "the same, another seed": {"seed": 1},
    "lite1": {"options": {"encoder": "lite1"}},
    "lite2": {"options": {"encoder": "lite2"}},
    "stain 0": {"augmentation": Augmentation(stain=0.0)},
    "stain 2": {"augmentation": Augmentation(stain=2.0)},
    "grey 0": {"augmentation": Augmentation(grey=0.0)},
    "blur 0": {"augmentation": Augmentation(blur=0.0)},
    "plain look only": {"generated": ("plain",)},
    "real look only": {"generated": ("real",)},
    "no generated fields": {"generated": ()},
}
PAP = ("bttfa_lbc", "isbi2014/train45", "isbi2014/edf_tiles_nuclei")


def train(given: argparse.Namespace, name: str) -> Path:
    """Train one variant, or resume it; return its checkpoint."""
    changes = dict(VARIANTS[name])
    generated = [str(getattr(given, g)) for g in changes.pop("generated", ("plain", "real"))]
    out = given.work / name.replace(" ", "_").replace(",", "")
    if not (out / "unet.safetensors").is_file():
        real = [str(given.data / place) for place in SETS.values()]
        train_semantic(UNetTrainConfig(
            model="unet", data=(*real, *generated), split="fold:0/5", save_every=BUDGET["steps"],
            amp=False, workers=0, out=out, **BUDGET, **changes,
        ), quiet=True)  # fmt: skip
    return out / "unet.safetensors"


def row(given: argparse.Namespace, name: str, path: Path) -> str:
    """Measure one variant; return its line of the table."""
    model, config = model_for(RunConfig(checkpoint=path, device="cpu")), RunConfig(quiet=True)
    cells = [name]
    for split in ("fold:5/10", "fold:0/10"):
        wanted = PAP[:2] if split == "fold:5/10" else (*PAP, "cric_fields")
        sets = [s for s in find_sets(given.data, split)[0] if s.name in wanted]
        scores, _ = measure_model(model, sets, config, segment_whole, quiet=True)
        for one in wanted[:-1] if "cric_fields" in wanted else wanted:
            nuclei = scores[one]["nuclei"]
            cells.append(f"{nuclei['F1']:.3f} / {nuclei['AP50']:.3f}")
        if "cric_fields" in scores:
            marks = scores["cric_fields"]["marks"]
            cells.append(f"{marks['recall']:.2f} / {marks['drawn per mark']:.2f}")
    cells.append(f"{_seconds(path):.2f}")
    return "| " + " | ".join(cells) + " |"


def _seconds(path: Path) -> float:
    """Return the least time of three for a block of 512² pixels on this CPU, in seconds."""
    network = registry.load(path)[0].to(memory_format=torch.channels_last)
    image = torch.zeros(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)
    taken = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            network(image)
            taken.append(time.perf_counter() - began)
    return float(np.min(taken[1:]))


def main() -> None:
    """Train what is missing, measure all, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with the sets")
    parser.add_argument("--plain", type=Path, required=True, help="generated set, --look plain")
    parser.add_argument("--real", type=Path, required=True, help="generated set, --look real")
    parser.add_argument("--work", type=Path, required=True, help="folder for the networks")
    given = parser.parse_args()
    heads = [
        "variant", *(f"choice: {s}" for s in PAP[:2]), *PAP,
        "cric_fields: found / drawn per mark", "s per 512² px",
    ]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in VARIANTS:
        lines.append(row(given, name, train(given, name)))
        print(lines[-1], flush=True)
        budget = ", ".join(f"{k} {v}" for k, v in BUDGET.items())
        text = (
            "# Choices for `unet`\n\nWritten by `experiments/unet_choices.py`, whose help says how "
            f"to read it. Budget of each: {budget}. Nuclei: F1 / AP50.\n\n"
        )
        RESULTS.write_text(text + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
