"""Gather the sets of a training run: samples, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .config import TrainConfig, weighted

__all__ = ["HasImage", "WeightedSets", "gather_sets"]


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
