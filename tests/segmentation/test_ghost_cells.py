"""Laws of `is_ghost`: what has stain stays, what lies on glass goes, also under uneven light."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.segmentation.ghost_cells import GLASS_MARGIN, STAINED, is_ghost

GLASS = (236, 230, 240)


def field_with(density, *, side=96, light=None):
    """A field of glass with a disc of an optical density, its labels and its box."""
    y, x = np.ogrid[:side, :side]
    disc = (x - 48) ** 2 + (y - 48) ** 2 < 20**2
    light = np.ones((side, side)) if light is None else light
    image = np.asarray(GLASS) * light[..., None] * np.where(disc, 10.0**-density, 1)[..., None]
    return np.round(image).astype(np.uint8), disc.astype(np.int32), np.array([[28.0, 28, 69, 69]])


def ghost(density, **options):
    image, labels, box = field_with(density, **options)
    return bool(is_ghost(image, labels, image, box, GLASS)[0])


@given(st.floats(0, 0.3))
def test_stain_decides(density):
    if density < GLASS_MARGIN - 0.003:
        assert ghost(density)
    elif density > GLASS_MARGIN + 0.003:
        assert not ghost(density)


@pytest.mark.parametrize("slope", [-0.08, 0.08])
def test_uneven_light_is_no_stain(slope):
    light = 1 + np.linspace(slope, 0, 96)[None] * np.ones((96, 1))
    assert ghost(0, light=np.clip(light, 0, 1)) and not ghost(0.08, light=np.clip(light, 0, 1))


def test_a_cell_in_a_crowd_is_no_ghost():
    """Where no glass is near, the density itself decides."""
    image, labels, box = field_with(0)
    stained = np.round(image * 10 ** -(STAINED + 0.01)).astype(np.uint8)
    assert not is_ghost(stained, labels, stained, box, GLASS)[0]


def test_the_window_does_not_matter():
    for density in (0, 0.01, 0.02, 0.06):
        image, labels, box = field_with(density, side=160)
        inner = slice(8, 90)
        cut = image[inner, inner], labels[inner, inner]
        shifted = box - 8
        whole = is_ghost(image, labels, image, box, GLASS)
        assert whole == is_ghost(*cut, cut[0], shifted, GLASS)


def test_nothing_is_no_ghost():
    image, labels, _ = field_with(0.1)
    assert is_ghost(image, 0 * labels, image, np.zeros((0, 4)), GLASS).shape == (0,)


@given(st.floats(0, 0.008), st.integers(1, 19))
def test_a_speck_that_counts_as_a_nucleus_is_no_stain(density, radius):
    """Also where it fills most of the ghost; where it fills all, nothing is known."""
    image, labels, box = field_with(density)
    y, x = np.ogrid[:96, :96]
    speck = (x - 48) ** 2 + (y - 48) ** 2 < radius**2
    image[speck] = 90
    assert is_ghost(image, np.where(speck, 0, labels), image, box, GLASS)[0]
    assert not is_ghost(image, 0 * labels, image, box, GLASS)[0]
