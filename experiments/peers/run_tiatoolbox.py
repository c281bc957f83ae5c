"""Run TIAToolbox's SemanticSegmentor: probabilities merged over the slide, then outlines."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer import Network, arguments, finish
from tiatoolbox.annotation.storage import SQLiteStore
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC

TILE_PX, MARGIN_PX = 512, 64
"""What a patch keeps, and the context around it, as TIAToolbox's documentation advises."""


class Model(ModelABC):  # type: ignore[misc]
    """Give the network the methods that the engine calls."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Images (n, 3, h, w) → probability of background and nucleus (n, 2, h, w)."""
        nucleus = self.network(images)
        return torch.cat([1 - nucleus, nucleus], 1)

    @staticmethod
    def infer_batch(model: Any, batch_data: Any, *, device: str) -> NDArray[np.float32]:
        """Patches (n, h, w, 3) → probabilities of their middle (n, h', w', 2)."""
        images = torch.as_tensor(batch_data).to(device).permute(0, 3, 1, 2)
        kept = slice(MARGIN_PX, -MARGIN_PX)
        scores: NDArray[np.float32] = model(images)[:, :, kept, kept].permute(0, 2, 3, 1).numpy()
        return scores

    @staticmethod
    def postproc(image: Any) -> Any:
        """Probabilities (h, w, 2) → class of each pixel."""
        return image.argmax(axis=-1)


def main() -> None:
    """Run the engine with its own tissue mask; convert its store for the comparison."""
    given = arguments(__doc__)
    network = Network(given.network)
    engine = SemanticSegmentor(
        Model(network), batch_size=8, num_workers=given.threads, verbose=False
    )
    loaded = time.time()
    resolution = [{"units": "mpp", "resolution": given.mpp}]
    config = IOSegmentorConfig(
        input_resolutions=resolution,
        output_resolutions=resolution,
        patch_input_shape=(TILE_PX + 2 * MARGIN_PX,) * 2,
        patch_output_shape=(TILE_PX, TILE_PX),
        stride_shape=(TILE_PX, TILE_PX),
        ignore_index=0,
    )
    stores = engine.run(
        [given.slide],
        patch_mode=False,
        ioconfig=config,
        save_dir=given.out / "store",
        output_type="annotationstore",
        overwrite=True,
        class_dict={0: "background", 1: "nucleus"},
    )
    finish(given.out, loaded, network, "tiatoolbox")
    SQLiteStore(next(iter(stores.values()))).to_geojson(given.out / "outlines.geojson")


if __name__ == "__main__":
    main()
