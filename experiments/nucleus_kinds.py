"""Train and judge `nucleus_kinds`: what kind of nucleus a segmented object is.

    python experiments/nucleus_kinds.py work --steps 3000

trains on the crops in the folder work, which `nucleus_kinds_data.py` wrote, and writes
work/nucleus_kinds.safetensors. experiments/results/nucleus_kinds.md has all commands and what was
measured. Run it again to go on: a checkpoint is written every 50 steps.

Files: train_NAME.npz, choose_NAME.npz (thresholds are chosen on them), judge_NAME.npz, and
herlev.npz, of which fold 0 of 5 is judged. What is in cric_NAME.npz and isbi_NAME.npz is judged and
never learned from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nucleus_kinds_data import ABNORMAL, NORMAL, Marked, load
from numpy.typing import NDArray
from wsiseg_models.checkpoint import Card, load_checkpoint, save_checkpoint
from wsiseg_models.kinds.crops import CROP_MPP, CROP_PX
from wsiseg_models.kinds.network import KINDS, TASK, KindNet, kindnet
from wsiseg_models.kinds.train import KindSet, fit_kinds, kind_probabilities, middle

from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.segmentation.kinds import decide

SHARES = {"herlev": 4.0, "train": 6.0}
"""Share of each batch."""
PRIOR = (0.60, 0.15, 0.20, 0.05)
"""How common the kinds are where the probabilities hold."""
LEAVE = {"abnormal": 0.01, "leukocyte": 0.02, "other": 0.005}
"""Share of normal nuclei that may leave their class through each of the others."""
CARD = Card(
    name="nucleus_kinds", task=TASK, classes=KINDS, mpp=CROP_MPP, halo_px=CROP_PX // 2,
    tile_px=CROP_PX, stride=1, options={"kinds": len(KINDS), "width": 12},
    licence="research use; see data",
    data=(
        "herlev40 (licence: repository MIT; cite Jantzen et al., NiSIS 2005; pixel size lost)",
        "synthetic cytology fields (licence: generated, free to use)",
    ),
)  # fmt: skip


def main() -> None:
    """Train, calibrate, choose thresholds, judge, write the checkpoint and print all numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder with crops, and for what is written")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--rate", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--initial", type=Path, help="weights to start from")
    parser.add_argument("--fold", type=int, default=0, help="fold of herlev40 that is judged")
    parser.add_argument("--judge", type=Path, help="only judge these weights of a training")
    given = parser.parse_args()
    began = time.process_time()
    cells = load(given.work / "herlev.npz")
    if given.judge:
        network = _network(given.judge)
    else:
        network = _trained(given, cells.take(cells.group != given.fold))
    minutes = round((time.process_time() - began) / 60, 1)
    chosen = [load(path) for path in sorted(given.work.glob("choose_*.npz"))]
    _calibrate(network, chosen)
    rule = _limits(network, chosen)
    print("thresholds", rule)
    metrics = _judged(given.work, network, rule, cells.take(cells.group == given.fold))
    count = sum(p.numel() for p in network.parameters())
    card = replace(CARD, metrics=metrics, parameters=count, rule=rule, training={
        "steps": given.steps, "CPU minutes": minutes, "prior": dict(zip(KINDS, PRIOR, strict=True)),
        "started from": str(given.initial.name) if given.initial else "random weights",
    })  # fmt: skip
    save_checkpoint(given.work / "nucleus_kinds.safetensors", network.state_dict(), card)
    print(f"{count} parameters, {minutes} CPU minutes")


def _network(file: Path) -> KindNet:
    """Return the network of a file."""
    network = kindnet(**CARD.options)
    network.load_state_dict(load_checkpoint(file)[0])
    return network.eval()


def _trained(given: argparse.Namespace, cells: Marked) -> KindNet:
    """Train on all sets; a checkpoint of the running mean is written every 50 steps."""
    files = sorted(given.work.glob("train_*.npz"))
    learned = [load(path).data for path in files]
    count = sum(len(one.kinds) for one in learned)
    sets = [(cells.data, SHARES["herlev"])]
    sets += [(one, SHARES["train"] * len(one.kinds) / count) for one in learned]
    network = _network(given.initial) if given.initial else kindnet(**CARD.options)

    def keep(step: int, state: Any) -> None:
        if step % 50 == 0:
            save_checkpoint(given.work / "last.safetensors", state, CARD)
            print(f"step {step} of {given.steps}", flush=True)

    return fit_kinds(network, CARD, sets, steps=given.steps, rate=given.rate, ema=0.995, seen=keep)


def _drawn(sets: Sequence[Marked]) -> Marked:
    """Return the nuclei of several sets that a run draws."""
    one = [s.take(s.drawn) for s in sets]
    data = KindSet(np.concatenate([s.data.crops for s in one]),
                   np.concatenate([s.data.kinds for s in one]))  # fmt: skip
    return Marked(data, *(np.concatenate([getattr(s, n) for s in one])
                          for n in ("group", "name", "area", "drawn")))  # fmt: skip


def _calibrate(network: KindNet, sets: Sequence[Marked]) -> None:
    """Fit temperature and prior on drawn nuclei and put both into the last layer.

    Each nucleus has the weight that gives its kind the share of `PRIOR`.
    """
    data = _drawn(sets).data
    logits = torch.from_numpy(_probability(network, data)).log().float()
    kinds = torch.from_numpy(data.kinds)
    weight = torch.tensor(PRIOR)[kinds] / torch.bincount(kinds, minlength=len(KINDS))[kinds]
    cold, bias = torch.zeros((), requires_grad=True), torch.zeros(len(KINDS), requires_grad=True)
    fit = torch.optim.LBFGS([cold, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        fit.zero_grad()
        each = torch.nn.functional.cross_entropy(
            logits * cold.exp() + bias, kinds, reduction="none"
        )
        total = (weight * each).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    fit.step(loss)  # type: ignore[arg-type]
    last = network.head[-1]
    with torch.no_grad():
        last.weight.mul_(cold.exp())  # type: ignore[operator, union-attr]
        last.bias.mul_(cold.exp()).add_(bias - bias.mean())  # type: ignore[operator, union-attr]
    print(
        f"temperature {float((-cold.detach()).exp()):.3f}, shifts {bias.detach().numpy().round(2)}"
    )


def _probability(network: KindNet, data: KindSet) -> NDArray[np.float32]:
    return kind_probabilities(network, CARD, middle(data.crops)).clip(1e-6, 1)


def _limits(network: KindNet, sets: Sequence[Marked]) -> dict[str, float]:
    """Return the least limit of each kind that only the share `LEAVE` of normal nuclei reaches."""
    one = _drawn(sets)
    normal = _probability(network, one.data)[one.data.kinds == NORMAL]
    return {name: round(max(0.3, float(np.quantile(normal[:, KINDS.index(name)], 1 - share))), 3)
            for name, share in LEAVE.items()}  # fmt: skip


def _judged(work: Path, network: KindNet, rule: dict[str, float], cells: Marked) -> dict[str, Any]:
    """Print and return what a network reaches on all sets that it has not seen."""
    limits = tuple(rule.get(name, 0.0) for name in KINDS)
    metrics = {"herlev40": _auc("herlev40", cells, _probability(network, cells.data), limits)}
    for path in sorted(work.glob("cric_*.npz")):
        one = load(path)
        metrics[path.stem] = _auc(path.stem, one, _probability(network, one.data), limits)
    for path in [*sorted(work.glob("isbi_*.npz")), *sorted(work.glob("judge_*.npz"))]:
        one = _drawn([load(path)])
        metrics[path.stem] = _confusion(path.stem, one, _probability(network, one.data), limits)
    return metrics


def _auc(
    title: str, one: Marked, probability: NDArray[np.float32], limits: Sequence[float]
) -> dict[str, Any]:
    """Print and return how well abnormal is told from normal, and what each class is called."""
    abnormal, called = one.data.kinds == ABNORMAL, decide(probability, limits)
    values = probability[:, ABNORMAL]
    alone = values / (values + probability[:, NORMAL])
    result: dict[str, Any] = {
        "AUC": round(rank_auc(values, abnormal), 4),
        "AUC without the other kinds": round(rank_auc(alone, abnormal), 4),
        "AUC of area": round(rank_auc(one.area, abnormal), 4),
        "normal called normal": round(float((called[~abnormal] == NORMAL).mean()), 3),
        "abnormal called abnormal": round(float((called[abnormal] == ABNORMAL).mean()), 3),
        "nuclei": len(abnormal),
    }
    print(f"{title}: {result}")
    for name in np.unique(one.name):
        own = one.name == name
        share = np.bincount(called[own], minlength=len(KINDS)) / own.sum()
        print(f"    {name}: {own.sum()}, median {np.median(values[own]):.2f}, {share.round(2)}")
    return result


def _confusion(
    title: str, one: Marked, probability: NDArray[np.float32], limits: Sequence[float]
) -> dict[str, Any]:
    """Print and return the share of each kind that goes to each class."""
    called, table = decide(probability, limits), {}
    for k, kind in enumerate(KINDS):
        own = one.data.kinds == k
        if own.any():
            share = (np.bincount(called[own], minlength=len(KINDS)) / own.sum()).round(3)
            table[kind] = dict(zip(KINDS, share.tolist(), strict=True))
            print(f"{title}: {kind} ({own.sum()}): {table[kind]}")
            for name in np.unique(one.name[own]):
                part = called[own & (one.name == name)]
                share = np.bincount(part, minlength=len(KINDS)) / len(part)
                print(f"    {name}: {len(part)} {share.round(2)}")
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
