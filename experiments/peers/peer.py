"""Functions that the scripts of all peers share.

They need torch alone, since each peer has an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import torch


class Network(torch.nn.Module):
    """The exported network: images (n, 3, h, w), 0 to 255 → nucleus probability (n, 1, h, w).

    `pixels` counts the pixels of its inputs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.module = torch.jit.load(path).eval()  # noqa: TID251
        self.pixels = 0

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the network and count the pixels."""
        self.pixels += images.shape[0] * images.shape[2] * images.shape[3]
        probability: torch.Tensor = self.module(images.float())
        return probability


def arguments(about: str | None) -> argparse.Namespace:
    """Parse a peer's command line, set the number of threads and make the folder `out`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("slide", type=Path)
    parser.add_argument("network", type=Path, help="TorchScript file that compare.py writes")
    parser.add_argument("out", type=Path, help="folder for outlines.geojson and run.json")
    parser.add_argument("--mpp", type=float, required=True, help="µm per pixel of the network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--detection-px", type=int, default=20, help="InstanSeg's detection size")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def finish(out: Path, loaded: float, network: Network, *packages: str) -> None:
    """Write run.json: when loading and the run ended (seconds since 1970), and the versions."""
    record = {
        "loaded": loaded,
        "finished": time.time(),
        "network_mpx": network.pixels / 1e6,
        "versions": {name: version(name) for name in (*packages, "torch")},
    }
    (out / "run.json").write_text(json.dumps(record), encoding="utf-8")
