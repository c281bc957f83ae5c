"""Run InstanSeg on a whole slide with the network of the comparison."""

from __future__ import annotations

import shutil
import time

import numpy as np
import torch
from instanseg import InstanSeg
from peer import Network, arguments, finish
from scipy import ndimage


class Model(torch.nn.Module):
    """Give the network the attributes that InstanSeg expects of a model."""

    cells_and_nuclei = False
    graph = ""  # InstanSeg searches it for further arguments; there are none

    def __init__(self, network: Network, mpp: float) -> None:
        super().__init__()
        self.network, self.pixel_size = network, mpp

    def forward(self, images: torch.Tensor, target_segmentation: object = None) -> torch.Tensor:
        """Images (n, 3, h, w), 0 to 255 → label images float32 (n, 1, h, w)."""
        masks = (self.network(images) >= 0.5).numpy()
        labels = [ndimage.label(mask[0])[0] for mask in masks]
        return torch.from_numpy(np.stack(labels)[:, None].astype(np.float32))


def main() -> None:
    """Run InstanSeg with its own tissue mask."""
    given = arguments(__doc__)
    network = Network(given.network)
    segmenter = InstanSeg(Model(network, given.mpp), device="cpu", verbosity=0)
    loaded = time.time()
    # InstanSeg writes its result beside the slide.
    slide = given.out / given.slide.name
    slide.unlink(missing_ok=True)
    slide.symlink_to(given.slide.resolve())
    segmenter.eval_whole_slide_image(
        str(slide),
        normalise=False,
        detection_size=given.detection_px,
        use_otsu_threshold=True,
        save_geojson=True,
    )
    finish(given.out, loaded, network, "instanseg-torch")
    written = next(given.out.glob("*_prediction.geojson"))
    shutil.copyfile(written, given.out / "outlines.geojson")


if __name__ == "__main__":
    main()
