"""What every training shares: running mean of weights, learning rates, resuming, the loop itself.

A run is a folder: ``state.pt``, from which training goes on, and ``log.jsonl``, one line for each
time it was validated.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..checkpoint import load_checkpoint
from ..files import written_aside

__all__ = [
    "Ema",
    "Run",
    "cosine",
    "milestones",
    "run_steps",
    "start_from",
    "stream",
    "warm_up",
]


class Ema:
    """Running mean of a network's weights, as float32."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone().float() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step`; early steps count for less."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for k, v in network.state_dict().items():
            self.state[k].lerp_(v.float(), 1 - decay)


def cosine(step: int, steps: int) -> float:
    """Learning rate as a share of the highest: half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))


def milestones(step: int, at: Sequence[int], gamma: float = 0.1) -> float:
    """Learning rate as a share of the highest: `gamma` times as high after each step of `at`."""
    return gamma ** sum(step >= m for m in at)


def warm_up(step: int, steps: int, factor: float) -> float:
    """Share of the learning rate, which rises in a line from `factor` to 1 over `steps`."""
    return min(1.0, factor + (1 - factor) * step / max(steps, 1))


def stream(
    data: Dataset[Any], start: int, stop: int, *, workers: int, device: str
) -> Iterator[Any]:
    """The batches of steps `start` to `stop`, made ahead by other processes."""
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
        prefetch_factor=4 if workers else None,
    )
    # OpenCV's threads do not live on in a forked process, which would wait for them for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return iter(loader)
    finally:
        cv2.setNumThreads(threads)


def start_from(network: nn.Module, path: Path) -> dict[str, Any]:
    """Copy what fits from another run's state or a checkpoint; what was copied and what not.

    Raises
    ------
    ValueError
        a checkpoint of a network with batch norm, which is folded in there; only the state of its
        run has the weights that can be trained further
    """
    mine = network.state_dict()
    if path.suffix == ".safetensors":
        stored = _unfolded(load_checkpoint(path)[0], mine)
        lost = [k for k in mine if k.endswith("running_mean") and k not in stored]
        if lost:
            raise ValueError(f"{path}: batch norms are folded; start from the run's state.pt")
    else:
        stored = torch.load(path, map_location="cpu", weights_only=True)["ema"]  # noqa: TID251
    fits = {k for k, v in mine.items() if k in stored and stored[k].shape == v.shape}
    network.load_state_dict({k: stored[k] if k in fits else v for k, v in mine.items()})
    return {"copied": len(fits), "fresh": sorted(set(mine) - fits)}


def _unfolded(stored: dict[str, Tensor], mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`stored` with each weight that `mine` has as length and direction (weight norm) as such."""
    parts = ".parametrizations.weight.original"
    for name in [k.removesuffix(f"{parts}1") for k in mine if k.endswith(f"{parts}1")]:
        weight = stored.pop(f"{name}.weight", None)
        if weight is not None:
            stored[f"{name}{parts}0"] = weight.norm(2, (1, 2, 3), keepdim=True)
            stored[f"{name}{parts}1"] = weight
    return stored


@dataclass
class Run:
    """A training run: what is trained, how long, and the folder it can go on from.

    Attributes
    ----------
    settings
        JSON of all that must agree for a run to be continued
    minutes
        spent so far, earlier sittings included
    """

    out: Path
    network: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    settings: Mapping[str, Any]
    steps: int
    device: str
    save_every: int = 250
    max_minutes: float = math.inf
    step: int = 0
    minutes: float = 0.0

    def resume(self) -> None:
        """Go on from the state in the folder, if there is one.

        Raises
        ------
        ValueError
            the folder holds a run with other settings
        """
        self.out.mkdir(parents=True, exist_ok=True)
        for left in self.out.glob("state.pt.*part"):  # of a run that was killed while saving
            left.unlink()
        path = self.out / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)  # noqa: TID251
        before = json.loads(state["config"])
        changed = sorted(k for k in self.settings if before.get(k) != self.settings[k])
        if changed:
            raise ValueError(
                f"{self.out} holds a run with another {', '.join(changed)}; give another --out"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.state = state["ema"]
        self.step, self.minutes = int(state["step"]), float(state["minutes"])

    def save(self) -> None:
        """Write the state aside and rename it."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state,
            "step": self.step,
            "minutes": self.minutes,
            "config": json.dumps(self.settings),
        }
        with written_aside(self.out / "state.pt") as aside:
            torch.save(state, aside)

    def log(self, losses: Mapping[str, float], measured: Mapping[str, Any]) -> None:
        """Append a line on where the run stands."""
        line = {"step": self.step, "minutes": round(self.minutes, 2), "loss": losses}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps({**line, "held out": measured}) + "\n")


def run_steps(
    run: Run,
    batches: Iterator[Any],
    *,
    update: Callable[[int, Any], dict[str, Tensor]],
    rate: Callable[[int], float],
    validate: Callable[[], Mapping[str, Any]],
    shown: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    quiet: bool,
) -> None:
    """Train from where `run` stands to its last step, or until its time is up.

    Parameters
    ----------
    update
        step and batch → loss terms, after one step of the optimiser
    rate
        step → learning rate
    validate
        what the averaged network reaches on held-out images, for the log
    shown
        what of that the progress bar shows
    """
    before, clock = run.minutes, time.monotonic()
    running: dict[str, Tensor] = {}
    plain = not quiet and not sys.stderr.isatty()  # a bar is for a terminal
    bar = tqdm(
        total=run.steps, initial=run.step, unit="step", disable=quiet or plain, file=sys.stderr
    )
    for step, batch in enumerate(batches, run.step):
        for group in run.optimizer.param_groups:
            group["lr"] = rate(step)
        terms = update(step, batch)
        run.ema.update(run.network, step)
        for name, value in terms.items():
            running[name] = 0.98 * running.get(name, value) + 0.02 * value
        run.step = step + 1
        run.minutes = before + (time.monotonic() - clock) / 60
        bar.update()
        late = run.minutes - before > run.max_minutes
        if run.step % run.save_every == 0 or run.step == run.steps or late:
            run.save()
            losses = {k: float(v) for k, v in running.items()}
            measured = validate()
            run.log(losses, measured)
            told = {**losses, **shown(measured)}
            bar.set_postfix(told)
            if plain:
                numbers = ", ".join(f"{k} {v:.3f}" for k, v in told.items() if v is not None)
                at = f"step {run.step} of {run.steps}, {run.minutes:.1f} min"
                sys.stderr.write(f"{at}: {numbers}\n")
                sys.stderr.flush()
        if late:
            break
    bar.close()
    run.minutes = before + (time.monotonic() - clock) / 60
