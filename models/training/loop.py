"""The training loop: running mean of weights, batches, state on disk, resuming.

A run is a folder: ``state.pt``, from which training resumes, and ``log.jsonl``, one line for each
validation.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..checkpoint import load_torch_file
from ..files import written_aside

__all__ = ["Ema", "Run", "run_steps", "seeded", "stream"]


class Ema:
    """Running mean of a network's weights, as float32.

    Parameters
    ----------
    decay
        share that the mean keeps at each step
    start_share
        share of the network's first weights in `weights`
    """

    def __init__(self, network: nn.Module, decay: float, *, start_share: float = 0.0) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone().float() for k, v in network.state_dict().items()}
        self.start_share = start_share
        self._first = {k: v.clone() for k, v in self.state.items()} if start_share else {}

    def weights(self) -> dict[str, Tensor]:
        """Return the mean, mixed with the first weights.

        Between the weights before and after further training lie networks that have learned nearly
        as much and forgotten far less (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
        models", section 3).
        """
        if not self.start_share:
            return self.state
        return {k: v.lerp(self._first[k], self.start_share) for k, v in self.state.items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after `step` to the mean; the first steps count less."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = network.state_dict()
        torch._foreach_lerp_(
            list(self.state.values()), [now[k].float() for k in self.state], 1 - decay
        )


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's random numbers, and restore their state afterwards (CPU and CUDA)."""
    cuda = range(torch.cuda.device_count()) if device.startswith("cuda") else ()
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seed)
        yield


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV to one thread, and restore their number afterwards."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def stream(
    data: Dataset[Any], start: int, stop: int, *, workers: int, device: str
) -> Iterator[Any]:
    """Return the batches of steps `start` to `stop`, made ahead by other processes."""
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
        prefetch_factor=4 if workers else None,
    )
    # OpenCV's threads do not exist in a forked process, which would wait for them for ever.
    with _one_opencv_thread():
        return iter(loader)


@dataclass
class Run:
    """A training run: what is trained, for how long, and the folder from which it resumes.

    Attributes
    ----------
    settings
        JSON of all settings that must agree for the run to be resumed
    minutes
        time spent so far, over all starts
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
        """Load the state in the folder, if there is one.

        Raises
        ------
        ValueError
            the folder holds a run with other settings, or its state is damaged
        """
        self.out.mkdir(parents=True, exist_ok=True)
        for left in self.out.glob("state.pt.*part"):  # of a run that was killed while saving
            left.unlink()
        path = self.out / "state.pt"
        if not path.is_file():
            return
        state = load_torch_file(path, device=self.device)
        remedy = "copy it again, or give another --out"
        try:
            before = dict(json.loads(state["config"]))
            step, minutes, ema = int(state["step"]), float(state["minutes"]), dict(state["ema"])
            parts = state["network"], state["optimizer"]
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is no state of a training ({error}); {remedy}") from error
        changed = sorted(k for k in self.settings if before.get(k) != self.settings[k])
        if changed:
            raise ValueError(
                f"{self.out} holds a run with another {', '.join(changed)}; give another --out"
            )
        fault = _unlike(ema, self.ema.state)
        try:
            self.network.load_state_dict(parts[0])
            self.optimizer.load_state_dict(parts[1])
        except MemoryError:
            raise
        except Exception as error:  # what is damaged inside raises anything
            fault = str(error).split("\n")[0]
        if fault or step < 0 or not 0 <= minutes < math.inf:
            fault = fault or f"step {step}, {minutes} minutes"
            raise ValueError(f"{path} does not fit this training ({fault}); {remedy}")
        self.ema.state, self.step, self.minutes = ema, step, minutes

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
        """Append losses and validation of this step to log.jsonl."""
        line = {"step": self.step, "minutes": round(self.minutes, 2), "loss": losses}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "held out": measured}) + "\n")


def _unlike(found: Mapping[str, Any], own: Mapping[str, Tensor]) -> str:
    """Return which weight of a state differs in name, shape or kind from a network's own."""
    for name in {**own, **found}:
        value = found.get(name)
        if not (
            isinstance(value, Tensor)
            and name in own
            and value.shape == own[name].shape
            and value.dtype == own[name].dtype
        ):
            return f"the averaged weight {name} is missing or of another shape"
    return ""


class _Progress:
    """Progress on stderr: a bar on a terminal, otherwise one line per validation."""

    def __init__(self, run: Run, *, quiet: bool) -> None:
        self.run = run
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(
            total=run.steps, initial=run.step, unit="step", disable=quiet or self.lines,
            file=sys.stderr,
        )  # fmt: skip

    def show(self, numbers: Mapping[str, Any]) -> None:
        """Print losses and scores by name; None is left out."""
        self.bar.set_postfix(numbers)
        if self.lines:
            text = ", ".join(f"{k} {v:.3f}" for k, v in numbers.items() if v is not None)
            at = f"step {self.run.step} of {self.run.steps}, {self.run.minutes:.1f} min"
            sys.stderr.write(f"{at}: {text}\n")
            sys.stderr.flush()


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
    """Train from the current step of `run` to its last step, or until its time is up.

    Parameters
    ----------
    update
        makes one step of the optimizer: step and batch → loss terms
    rate
        step → learning rate
    validate
        returns the scores of the averaged network on held-out images, for the log
    shown
        picks the scores that are printed
    """
    before, clock = run.minutes, time.monotonic()
    running: dict[str, Tensor] = {}
    progress = _Progress(run, quiet=quiet)
    for step, batch in enumerate(batches, run.step):
        for group in run.optimizer.param_groups:
            group["lr"] = rate(step) * group["share"]
        terms = update(step, batch)
        run.ema.update(run.network, step)
        for name, value in terms.items():
            running[name] = 0.98 * running.get(name, value) + 0.02 * value
        run.step = step + 1
        run.minutes = before + (time.monotonic() - clock) / 60
        progress.bar.update()
        late = run.minutes - before > run.max_minutes
        if run.step % run.save_every == 0 or run.step == run.steps or late:
            run.save()
            losses = {k: float(v) for k, v in running.items()}
            measured = validate()
            run.log(losses, measured)
            progress.show({**losses, **shown(measured)})
        if late:
            break
    progress.bar.close()
    run.minutes = before + (time.monotonic() - clock) / 60
