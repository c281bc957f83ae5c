"""Settings of learning from a teacher (distillation).

Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network". The teacher
is the mean of several networks, flips and turns, and scales (Radosavovic et al. 2018, "Data
distillation"), so that it is better than any of its passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import setting

__all__ = ["VIEWS", "Distillation"]

VIEWS = (1, 4, 8)
"""The image as it is; its four turns; these and their mirror images."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a network learns from a teacher, on images with and without annotations.

    Raises
    ------
    ValueError
        a value that cannot be, or two that do not fit together; the message names them

    Examples
    --------
    >>> Distillation(teacher=("unet.safetensors",), unlabelled=("fields@0.25",)).views
    8
    """

    teacher: tuple[str, ...] = setting(
        (),
        "Learn also from the class probabilities of this checkpoint; with several from their "
        "mean. Repeatable.",
        metavar="CHECKPOINT",
    )
    unlabelled: tuple[str, ...] = setting(
        (),
        "Learn from the teacher on the images of this folder, which need no annotations. Points "
        "of nuclei in a boxes.json are used. Repeatable.",
        metavar="DIR[@MPP][=WEIGHT]",
    )
    weight: float = setting(
        0.5,
        "Weigh the teacher this much on images with annotations, beside their usual loss; 0 uses "
        "it on unlabelled images only.",
        flags=("--distil-weight",),
    )
    views: int = setting(
        8,
        "Average the teacher over the image alone (1), its four turns (4), or these and their "
        "mirror images (8).",
        flags=("--teacher-views",),
        metavar="1|4|8",
    )
    scales: tuple[float, ...] = setting(
        (0.8, 1.0, 1.25),
        "Average the teacher over images enlarged by this factor from its own pixel size. "
        "Repeatable.",
        flags=("--teacher-scale",),
    )

    def __post_init__(self) -> None:
        if self.unlabelled and not self.teacher:
            raise ValueError(
                f"{self.unlabelled[0]} has no annotations to learn from; give a --teacher"
            )
        if not self.weight >= 0:
            raise ValueError(f"distil_weight {self.weight} must be 0 or more")
        if self.teacher and not self.unlabelled and self.weight == 0:
            raise ValueError(
                "nothing is learned from the teacher; give --unlabelled, or a --distil-weight "
                "above 0"
            )
        if self.views not in VIEWS:
            raise ValueError(f"teacher_views {self.views} is none of 1, 4, 8")
        if not self.scales or not all(0.25 <= s <= 4 for s in self.scales):
            raise ValueError(f"teacher_scale {self.scales} must be numbers from 0.25 to 4")
