"""Which images of a set are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Split"]


class _Image(Protocol):
    @property
    def held_out(self) -> bool | None: ...


@dataclass(frozen=True)
class Split:
    """Choose the images that are held out: ``fold:K/N``, ``time:SHARE`` or ``none``.

    ``fold:K/N`` holds out every Nth image from the Kth on (from 0), ``time:SHARE`` the last ones.

    Examples
    --------
    >>> [Split("fold:1/3").holds_out(i, 6) for i in range(6)]
    [False, True, False, False, True, False]
    """

    text: str

    def __post_init__(self) -> None:
        kind, _, value = self.text.partition(":")
        try:
            if kind == "fold":
                fold, folds = (int(v) for v in value.split("/"))
                known = 0 <= fold < folds
            else:
                known = self.text == "none" or (kind == "time" and 0 <= float(value) <= 1)
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"unknown split {self.text!r}; use fold:0/5, time:0.5 or none")

    def of_images(self, images: Sequence[_Image]) -> list[bool]:
        """Return which images of a file are held out.

        An image that states whether it is held out keeps that, but for the split ``none``.
        """
        count = len(images)
        return [
            self.holds_out(i, count)
            if image.held_out is None or self.text == "none"
            else image.held_out
            for i, image in enumerate(images)
        ]

    def holds_out(self, position: int, count: int) -> bool:
        """Return whether the image at `position` of `count` is held out."""
        kind, _, value = self.text.partition(":")
        if kind == "fold":
            fold, folds = (int(v) for v in value.split("/"))
            return position % folds == fold
        return kind == "time" and position >= round(count * (1 - float(value)))
