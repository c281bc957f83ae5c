"""Slides as they are made for users, with all their sprites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wsi_pipeline.synthetic import placement


@pytest.fixture(autouse=True, scope="module")
def all_sprites(few_sprites: None) -> Iterator[None]:
    """Undo what the other tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SPRITES", 384)
        yield
