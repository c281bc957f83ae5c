"""Laws of ghosts: what has stain stays, what lies on glass goes, also under uneven light."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.segmentation.ghost_cells import (
    CLEARLY_STAINED,
    GLASS_MARGIN,
    STAINED,
    clear_glass,
    is_ghost,
)
from wsi_pipeline.segmentation.mask_atlas import draw_atlas
from wsi_pipeline.segmentation.model import Instances

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


def cleared(image, mask, *, cell=True):
    """The mask of one instance, as large as the image, without its glass."""
    side = len(image)
    instance = Instances(
        boxes=np.array([[0, 0, side, side]], np.float32), scores=np.ones(1, np.float32),
        class_index=np.zeros(1, np.uint8), masks=np.where(mask, 255, 0).astype(np.uint8)[None],
    )  # fmt: skip
    atlas = draw_atlas(instance, side, side)
    clear_glass(atlas, np.array([cell]), image, (slice(0, side), slice(0, side)), GLASS)
    (x, y), (w, h) = atlas.corner[0], atlas.size[0]
    return atlas.probability[y : y + h, x : x + w] >= 128


@given(st.floats(CLEARLY_STAINED + 0.01, 0.5), st.integers(0, 3))
def test_a_mask_loses_the_glass_beside_its_cell(density, turns):
    image, labels, _ = field_with(density)
    disc, piece = labels > 0, np.zeros((96, 96), np.bool_)
    piece[40:56, 60:90] = True
    found = cleared(image, disc | np.rot90(piece, turns))
    assert not (found & ~cv2.dilate(disc.astype(np.uint8), np.ones((9, 9))).view(bool)).any()
    assert found[cv2.erode(disc.astype(np.uint8), np.ones((5, 5))) > 0].all()


def test_what_is_no_glass_beside_a_cell_stays():
    """A clear halo in a cell, a pale cell, a cell among cells, and what is not a cell."""
    image, labels, _ = field_with(0.2)
    disc = labels > 0
    halo = image.copy()
    halo[42:54, 42:54] = GLASS
    assert np.array_equal(cleared(halo, disc), cleared(image, disc))
    wide = cv2.dilate(disc.astype(np.uint8), np.ones((25, 25))) > 0
    pale = field_with(CLEARLY_STAINED - 0.01)[0]
    assert np.array_equal(cleared(pale, wide), wide)
    assert np.array_equal(cleared(image, wide, cell=False), wide)
    crowd = np.full_like(image, 150)
    crowd[disc] = 60
    crowd[:3, :10] = GLASS  # the only glass in the window
    assert np.array_equal(cleared(crowd, wide), wide)
