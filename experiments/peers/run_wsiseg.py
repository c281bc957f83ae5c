"""Run wsiseg with the same torch module as the peers and no step after the threshold."""

from __future__ import annotations

import time

import torch
from peer import Network, arguments, finish

from wsi_pipeline import Card, RunConfig, model_from_module, run_slide


def main() -> None:
    """Run wsiseg; split no touching nuclei, and remove no object for its score."""
    given = arguments(__doc__)
    network = Network(given.network)
    card = Card(
        "module", "nuclei", ("nucleus",), given.mpp, halo_px=160, tile_px=1024, mean=0, std=1
    )

    def decode(probability: torch.Tensor) -> torch.Tensor:
        return (probability * 255).round().to(torch.uint8)

    model = model_from_module(network, card, decode=decode, device="cpu")
    loaded = time.time()
    config = RunConfig(
        out=given.out, overwrite=True, quiet=True, split=False, min_score=0, min_small_score=0
    )
    run_slide(given.slide, config, model=model)
    finish(given.out, loaded, network, "wsiseg")


if __name__ == "__main__":
    main()
