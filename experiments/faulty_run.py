"""Run `wsiseg run` with a fault inside the process; experiments/faults.py starts this script.

    python experiments/faulty_run.py stall|clock|memory|"" [--network] -- SLIDE [OPTION …]

Regions are small, so that there are many. The files of the run are its results.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wsi_pipeline.benchmark.threshold_model import make_threshold_model
from wsi_pipeline.cli import main as cli
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.runs import work_plan
from wsi_pipeline.segmentation import load_model
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.fast_tiff import FastTiffReader

LIMIT_S = 1800.0
"""Longer than any run takes."""


def stalling(read: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Return a function that reads, but does not answer the eleventh and twelfth time."""
    reads: list[int] = []

    def stalled(*where: object) -> np.ndarray:
        reads.append(1)
        if 10 < len(reads) <= 12:
            time.sleep(LIMIT_S)
        return read(*where)

    return stalled


def disturbed_models(
    opened: Callable[[RunConfig], Model], fault: str, network: bool
) -> Callable[[RunConfig], Model]:
    """Return a function that opens a model whose network is slower, or runs out of memory."""

    def model_for(config: RunConfig) -> Model:
        model = opened(config) if network else make_threshold_model("dssnet")
        inner = model.network

        def predict(images: np.ndarray) -> np.ndarray:
            if fault == "memory" and len(images) > 2:
                raise MemoryError
            if not network:
                time.sleep(0.05)  # time in which something can happen
            return inner(images)

        return replace(model, network=predict, core_network=None)

    return model_for


def run(fault: str, network: bool, arguments: list[str]) -> None:
    """Run `wsiseg run` with a fault inside this process."""
    # A shell that starts a process in the background lets it ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work_plan.REGION_PX = 256
    if fault == "stall":
        FastTiffReader.read = stalling(FastTiffReader.read)
    if fault == "clock":
        now = time.time()
        time.time = lambda: now + random.uniform(-1e9, 1e9)
    load_model.model_for = disturbed_models(load_model.model_for, fault, network)
    sys.argv = ["wsiseg", "run", *arguments]
    cli.main()


def main() -> None:
    """Read the fault and the options of `wsiseg run` from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fault", choices=("", "stall", "clock", "memory"))
    parser.add_argument("--network", action="store_true", help="use the real network")
    parser.add_argument("arguments", nargs="+", help="slide and options of `wsiseg run`")
    given = parser.parse_args()
    run(given.fault, given.network, given.arguments)


if __name__ == "__main__":
    main()
