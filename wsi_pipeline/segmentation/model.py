"""`Model`: what the pipeline needs from a model of any kind. Nothing here imports PyTorch.

There are four kinds, each beside the functions that segment its regions: `PixelModel` and
`LabelModel` in `nuclei`, `InstanceModel` in `cells`, `BoxModel` in `boxes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from wsiseg_models.checkpoint import Card, read_card, shipped_models, weights_path
from wsiseg_models.predictions import Instances, Window, paste

from wsi_pipeline.core.config import ObjectRule, RunConfig
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.core.objects import Objects

if TYPE_CHECKING:
    from wsi_pipeline.segmentation.inference import Engine
    from wsi_pipeline.segmentation.ownership import ObjectFilter

__all__ = ["Card", "Images", "Instances", "Model", "Window", "paste", "read_card", "shipped_cards"]

Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A model that finds objects in images of a fixed pixel size.

    Attributes
    ----------
    name, classes
        name in the results; names of the object classes
    mpp
        µm per pixel of the images
    halo_px
        context that the model needs on each side of a pixel
    stride
        sides of the images are multiples of this
    tile_px
        default tile, without halo
    identity
        identifies the weights: SHA-256 of the checkpoint, or a name
    network
        function that does the arithmetic; each kind of model states its signature
    device, precision
        where the network runs, and its arithmetic: ``float32`` or ``bfloat16``
    at_once
        number of threads that call the network at the same time
    share
        called once in each of these threads, for example to give it a CUDA stream of its own
    torch_threads
        threads of one call of a PyTorch network on a CPU; None: not limited, or no PyTorch
    rule
        how objects are made of the output, where a run does not set it
    card
        entries of the checkpoint's card that go into the results
    sees_all
        whether a result depends on the whole image, however large; no run can then use tiles
    by_class
        whether objects of different classes are different objects, where two tiles found them
    streams
        True where objects are final without those of neighbouring regions, so that the final
        files can be written while regions come in
    """

    name: str
    classes: tuple[str, ...]
    mpp: float
    halo_px: int
    stride: int
    tile_px: int
    identity: str
    network: Callable[[Images], Any]
    device: str = "cpu"
    precision: str = "float32"
    at_once: int = 1
    share: Callable[[], None] = lambda: None
    torch_threads: int | None = None
    rule: ObjectRule = field(default_factory=ObjectRule)
    card: Mapping[str, Any] = field(default_factory=dict)
    sees_all: bool = False
    by_class: bool = False
    streams: ClassVar[bool] = False

    @property
    def channels(self) -> int:
        """Number of classes of the network, background left out."""
        return len(self.classes)

    @property
    @abstractmethod
    def reach_px(self) -> int:
        """Distance beyond a region's core within which its objects may extend, model pixels."""

    @property
    @abstractmethod
    def margin_px(self) -> int:
        """Width of the border around a region's core that its tiles also cover, model pixels."""

    @abstractmethod
    def empty(self) -> Objects:
        """Return no objects, with the classes and measurements that this model's objects have."""

    @abstractmethod
    def infer(self, images: Images) -> list[Any]:
        """Run the network on images uint8 (n, h, w, 3); one answer per image."""

    @abstractmethod
    def segment_region(
        self, engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
    ) -> tuple[Objects, int]:
        """Return the objects that a region owns, and how many were larger than the windows.

        Raises
        ------
        SlideReadError
            part of the region cannot be read
        """


def shipped_cards() -> dict[str, Card]:
    """Return the card of each network whose weights ship with the package."""
    return {name: read_card(weights_path(name)) for name in shipped_models()}
