"""Gather the sets of a training run: samples, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .coco import annotation_files
from .coco_document import read_document
from .config import TrainConfig, weighted

__all__ = ["HasImage", "WeightedSets", "gather_sets"]

LABELS_ALONE = "nucleus_kinds"
"""What a set is for that has labels and no background: ``for`` in its ``info``."""


class HasImage(Protocol):
    """What has an image, uint8 (h, w, 3)."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image."""
        ...


SampleType = TypeVar("SampleType", bound=HasImage)


@dataclass(frozen=True, eq=False)
class WeightedSets(Generic[SampleType]):
    """Samples of all sets.

    Attributes
    ----------
    samples
        samples to train on
    chances
        float64 (samples,): chance of each to be drawn; they add up to 1
    held
        samples that are held out for validation
    """

    samples: list[SampleType]
    chances: NDArray[np.float64]
    held: list[SampleType]


def gather_sets(
    config: TrainConfig,
    load: Callable[[str], tuple[list[SampleType], list[SampleType]]],
    further: Sequence[str] = (),
    load_further: Callable[[str], list[SampleType]] | None = None,
) -> WeightedSets[SampleType]:
    """Load the sets of `config.data`, and `further` sets that are only trained on.

    A set is drawn in proportion to its weight, an image of it in proportion to its area.

    Parameters
    ----------
    load
        set → its training samples and its held-out samples
    load_further
        further set → its samples; called after `load` was called for all sets

    Raises
    ------
    ValueError
        no image is left to train on, or as `load`
    """
    samples: list[SampleType] = []
    chances: list[float] = []
    held: list[SampleType] = []
    for position, spec in enumerate([*config.data, *further]):
        where, weight = weighted(spec)
        if position < len(config.data):
            _refuse_labels_alone(where)
            mine, theirs = load(where)
        else:
            assert load_further is not None
            mine, theirs = load_further(where), []
        area = np.array([s.image[..., 0].size for s in mine], float)
        chances += list(weight * area / max(area.sum(), 1))
        samples += mine
        held += theirs
    if not samples:
        raise ValueError(
            f"no image is left to train on with split {config.split!r}; add images, or use none"
        )
    return WeightedSets(samples, np.array(chances) / sum(chances), held)


def _refuse_labels_alone(spec: str) -> None:
    """Refuse a set of labelled nuclei without background: all would become a nucleus."""
    for file in annotation_files(spec)[0]:
        info = read_document(file).get("info")
        if isinstance(info, Mapping) and info.get("for") == LABELS_ALONE:
            raise ValueError(
                f"{spec} has labels of nuclei and no background, so it is for `wsiseg train "
                f"{LABELS_ALONE}` alone; to learn outlines make a set of checked areas, with "
                "`wsiseg dataset from-qupath`"
            )
