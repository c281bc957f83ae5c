"""Compare ways to bring a stain to the range of a model's training, for `wsiseg run --adapt`.

    python experiments/adapt.py choose CHECKPOINT ../shared/data
    python experiments/adapt.py judge CHECKPOINT ../shared/data

`choose` measures the ways of `WAYS` on up to `MOST` images per set of fold:5/10, as they are and
with a changed stain (`CHANGES`): the IoU of the pixels that the network calls nucleus with the true
ones. The range is that of the sets without fold:0/5. `judge` measures the way that was built, on
fold:0/10 and the sets that are kept back, segmented as `wsiseg run` does it. Both append to
results/adapt.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from leave_one_set_out import SETS, drawn_in
from numpy.typing import NDArray
from wsiseg_models.checkpoint import read_card
from wsiseg_models.stain import Stain, measure_stain
from wsiseg_models.training.coco import Split
from wsiseg_models.training.semantic_data import Sample, load_set

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.suite_measures import score_outlines
from wsi_pipeline.evaluation.suite_sets import find_sets
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.model import Model

RESULTS = Path(__file__).parent / "results" / "adapt.md"
MOST = {"isbi2014/train45": 2, "bttfa_lbc": 3, "dsb2018_subset": 4}
"""Most images of a set; one of the others, which are measured as they are only."""
SIDE_PX = 640
CHANGES = {
    "as it is": ((1, 1, 1), 1),
    "pale (densities × 0.35)": ((1, 1, 1), 0.35),
    "dark (densities × 2.2)": ((1, 1, 1), 2.2),
    "yellow lamp (light × 0.85, 0.65, 0.45)": ((0.85, 0.65, 0.45), 1),
}
TAILS = (0.03, 0.1, 0.2)

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trained:
    """Glass (n, 3) and density (n, 3) of training images, and how often each counts (n,)."""

    glass: Floats
    density: Floats
    weight: Floats

    def quantile(self, values: Floats, share: float) -> float:
        """Return the value below which this share of the images lies."""
        order = np.argsort(values)
        total = np.cumsum(self.weight[order])
        return float(values[order][min(np.searchsorted(total, share * total[-1]), len(order) - 1)])

    def channels(self, values: Floats, share: float) -> Floats:
        """Return that value of each channel."""
        return np.array([self.quantile(values[:, c], share) for c in range(3)])


Way = Callable[[Image, Stain, Trained], Image]


def _table(image: Image, glass: Floats, new_glass: Floats, gain: Floats | float) -> Image:
    value = np.maximum(np.arange(256)[:, None], 0.25)
    table = np.asarray(new_glass) * (value / glass) ** np.broadcast_to(gain, 3)
    return np.asarray(cv2.LUT(image, np.clip(np.round(table), 0, 255).astype(np.uint8)[None]))


def keep(image: Image, stain: Stain, trained: Trained) -> Image:
    """Change nothing."""
    return image


def one_gain(tail: float) -> Way:
    """Move glass and mean density to the range, with one factor for all channels."""

    def way(image: Image, stain: Stain, trained: Trained) -> Image:
        glass, density = np.array(stain.glass), float(np.mean(stain.density))
        low, high = (trained.quantile(trained.density.mean(1), q) for q in (tail, 1 - tail))
        return _table(image, glass, _glass(stain, trained), np.clip(density, low, high) / density)

    return way


def three_gains(image: Image, stain: Stain, trained: Trained) -> Image:
    """Move glass and each channel's density to the range."""
    density = np.maximum(stain.density, 1e-3)
    low, high = (trained.channels(trained.density, q) for q in (0.03, 0.97))
    gain = np.clip(np.clip(density, low, high) / density, 0.25, 4)
    return _table(image, np.array(stain.glass), _glass(stain, trained), gain)


def to_middle(image: Image, stain: Stain, trained: Trained) -> Image:
    """Move every slide to the median glass and density of the training."""
    middle = trained.quantile(trained.density.mean(1), 0.5) / float(np.mean(stain.density))
    return _table(image, np.array(stain.glass), trained.channels(trained.glass, 0.5), middle)


def stain_matrix(image: Image, stain: Stain, trained: Trained) -> Image:
    """Mix the channels' densities so that their second moments become those of another stain.

    The other stain has the hue and density of the nearest training image. The mixture is the one
    of least change (optimal transport of normal distributions, Olkin and Pukelsheim 1982).
    """
    od = _density(image, stain)
    sample = od[::4, ::4].reshape(-1, 3)
    sample = sample[sample.mean(1) > 0.05].astype(np.float64)
    if len(sample) < 30:
        return image
    moments = sample.T @ sample / len(sample) + 1e-5 * np.eye(3)
    near = _nearest(stain, trained)
    root = _root(moments)
    inverse = np.linalg.inv(root)
    wanted = np.outer(near, near) + np.diag(0.1 * near**2)
    return _mixed(od, inverse @ _root(root @ wanted @ root) @ inverse, _glass(stain, trained))


WAYS: dict[str, Way] = {
    "none": keep,
    **{f"one gain, range without {100 * t:g} %": one_gain(t) for t in TAILS},
    "gain per channel": three_gains,
    "to the middle": to_middle,
    "stain matrix": stain_matrix,
}


def _glass(stain: Stain, trained: Trained) -> Floats:
    low, high = (trained.channels(trained.glass, q) for q in (0.03, 0.97))
    return np.clip(stain.glass, low, high)


def _nearest(stain: Stain, trained: Trained) -> Floats:
    mine = np.log(np.maximum(stain.density, 1e-2))
    far = np.linalg.norm(np.log(np.maximum(trained.density, 1e-2)) - mine, axis=1)
    return np.asarray(trained.density[np.argmin(far)])


def _density(image: Image, stain: Stain) -> NDArray[np.float32]:
    share = np.maximum(image.astype(np.float32), 0.5) / np.array(stain.glass, np.float32)
    return np.maximum(-np.log10(share), 0)


def _mixed(od: NDArray[np.float32], mix: Floats, glass: Floats) -> Image:
    return np.clip(np.round(glass * 10 ** -(od @ mix.T)), 0, 255).astype(np.uint8)


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def changed(image: Image, light: Sequence[float], factor: float) -> Image:
    """Return an image under another light and with another strength of stain."""
    share = np.maximum(image.astype(np.float32), 1) / 255
    return np.clip(255 * np.array(light) * share**factor, 0, 255).astype(np.uint8)


def adapted(way: Way, image: Image, trained: Trained) -> Image:
    """Apply a way to an image; one with too little stain keeps its pixels."""
    stain = measure_stain(image[::2, ::2].reshape(-1, 3))
    if stain is None or stain.density is None:
        return image
    return np.ascontiguousarray(way(image, stain, trained))


def choose(checkpoint: Path, data: Path) -> list[str]:
    """Measure all ways; return lines of a table."""
    torch.set_num_threads(1)
    card = read_card(checkpoint)
    model = model_for(RunConfig(checkpoint=checkpoint, device="cpu", precision="float32"))
    held: dict[str, list[Sample]] = {}
    known: list[tuple[Stain, float]] = []
    for name, place in SETS.items():
        samples, _ = load_set(str(data / place), mpp=card.mpp, split=Split("fold:0/5"))
        stains = [measure_stain(s.image[::2, ::2].reshape(-1, 3)) for s in samples]
        known += [(s, 1 / len(samples)) for s in stains if s is not None and s.density]
        _, held[name] = load_set(str(data / place), mpp=card.mpp, split=Split("fold:5/10"))
    trained = Trained(
        np.array([s.glass for s, _ in known]), np.array([s.density for s, _ in known]),
        np.array([w for _, w in known]),
    )  # fmt: skip
    lines = ["| stain | set | " + " | ".join(WAYS) + " |", "|---" * (2 + len(WAYS)) + "|"]
    for change, (light, factor) in CHANGES.items():
        for name in SETS if factor == 1 and light == (1, 1, 1) else MOST:
            cells = []
            for way in WAYS.values():
                shared = united = 0
                for sample in held[name][: MOST.get(name, 1)]:
                    window = np.s_[:SIDE_PX, :SIDE_PX]
                    image = adapted(way, changed(sample.image[window], light, factor), trained)
                    truth = sample.labels[window]
                    mine = nucleus(model, image, card.rule.get("threshold", 0.5))
                    shared += int((mine & (truth > 0)).sum())
                    united += int(((mine & (truth >= 0)) | (truth > 0)).sum())
                cells.append(f"{shared / united:.3f}")
            lines.append(f"| {change} | {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return lines


def nucleus(model: Model, image: Image, threshold: float) -> NDArray[np.bool_]:
    """Return the pixels (h, w) that a network calls nucleus."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 32), (0, -width % 32), (0, 0)), mode="symmetric")
    probability = model.infer(padded[None])[0][0, :height, :width]
    return np.asarray(probability >= 255 * threshold)


def judge(checkpoint: Path, data: Path) -> list[str]:
    """Measure what was built on other images; return lines of a table."""
    model = model_for(RunConfig(checkpoint=checkpoint, device="cpu"))
    lines = ["| set | images | changed by --adapt | F1 | AP50 |", "|---|---|---|---|---|"]
    for one in find_sets(data, "fold:0/10")[0]:
        drawn = [drawn_in(model, field) for field in one.fields]
        cells = [f"{one.name}", f"{len(drawn)}", f"{sum(d[2] for d in drawn)}"]
        for name in ("F1", "AP50"):
            both = [[d[a] for d in drawn if d[a] is not None] for a in (0, 1)]
            scores = [score_outlines(known)[name] for known in both if known]
            cells.append(" → ".join(f"{v:.3f}" for v in scores) or "no outlines")
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print, and append the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("choose", "judge"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    lines = (choose if given.part == "choose" else judge)(given.checkpoint, given.data)
    name = f"{read_card(given.checkpoint).name} {read_card(given.checkpoint).sha256[:12]}"
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n".join(["", f"## {given.part}: {name}", "", *lines, ""]))


if __name__ == "__main__":
    main()
