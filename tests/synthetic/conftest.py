"""Slides as they are made for users, for the tests that compare them with recorded numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wsi_pipeline.synthetic import placement


@pytest.fixture
def all_sprites(few_sprites: None) -> Iterator[None]:
    """Paint all sprites, as for users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SPRITES", 384)
        yield
