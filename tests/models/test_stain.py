"""Laws of the stain of an image: light and strength are told apart, and cards keep the range."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsiseg_models.checkpoint import Card, read_card, save_checkpoint
from wsiseg_models.semantic.unet import unet
from wsiseg_models.stain import Stain, StainRange, measure_stain, stain_range

from wsi_pipeline.segmentation.stain_map import MOST_GAIN, stain_map


def painted(light, density, seed=0, n=20_000):
    """Pixels of glass under a light, of which half have a stain of varying strength."""
    rng = np.random.default_rng(seed)
    strength = np.where(rng.random(n) < 0.5, rng.uniform(0.8, 1.2, n), 0)[:, None]
    value = np.asarray(light) * 10 ** -(strength * density)
    return np.clip(np.round(value), 0, 255).astype(np.uint8)


channels = st.tuples(*[st.floats(0.1, 0.6).map(lambda v: round(v, 3))] * 3)
lights = st.tuples(*[st.floats(150, 255).map(lambda v: round(v, 1))] * 3)


@given(lights, channels)
def test_light_and_strength_are_told_apart(light, density):
    found = measure_stain(painted(light, density))
    assert np.allclose(found.glass, light, atol=1.5)
    assert np.allclose(found.density, density, rtol=0.08, atol=0.01)
    assert found.share == pytest.approx(0.5, abs=0.02)


@given(lights, channels, st.floats(0.4, 1))
def test_a_paler_stain_is_measured_on_the_same_pixels(light, density, factor):
    one, other = (measure_stain(painted(light, np.array(density) * f)) for f in (1, factor))
    assert other.share == pytest.approx(one.share, abs=0.03)
    assert np.allclose(other.density, np.array(one.density) * factor, rtol=0.1, atol=0.01)


def test_borders_and_order_do_not_count():
    pixels = painted((240, 230, 220), (0.3, 0.4, 0.2))
    black = np.zeros((30_000, 3), np.uint8)
    mixed = np.random.default_rng(1).permutation(np.concatenate([pixels, black]))
    assert measure_stain(mixed) == measure_stain(pixels)
    assert measure_stain(black) is None


def test_too_little_stain_has_no_density():
    glass = np.full((500_000, 3), 240, np.uint8)
    assert measure_stain(glass) == Stain((240.0, 240.0, 240.0), None, 0.0)
    glass[:900] = 60
    assert measure_stain(glass).density is None
    glass[:9000] = 60
    assert measure_stain(glass).density == pytest.approx((0.602,) * 3, abs=1e-3)


@given(lights, channels, lights, channels)
def test_a_map_leads_into_the_range_and_no_farther(light, density, trained_light, trained_density):
    one = Stain(trained_light, trained_density, 0.5)
    trained = StainRange.from_card(stain_range([one], [1.0]))
    change = stain_map(Stain(light, density, 0.5), trained)
    if change is None:
        assert np.allclose(light, trained_light, atol=0.5, rtol=0)
        assert np.isclose(np.mean(density), np.mean(trained_density), rtol=0.01)
        return
    assert np.allclose(change.new_glass, trained_light, atol=1e-3)
    gain = np.mean(trained_density) / np.mean(density)
    assert np.isclose(change.gain, np.clip(gain, 1 / MOST_GAIN, MOST_GAIN), atol=1e-3)
    assert (np.diff(change.table[0].astype(int), axis=0) >= 0).all()  # no value overtakes another
    assert stain_map(Stain(trained_light, trained_density, 0.5), trained) is None


def test_a_map_acts_on_each_pixel_alone():
    change = stain_map(
        Stain((200.0, 220.0, 210.0), (0.2, 0.3, 0.1), 0.5),
        StainRange.from_card({"glass": [[240] * 3] * 2, "density": [0.4, 0.4]}),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    whole = change(images)
    assert whole.shape == images.shape and whole.dtype == np.uint8
    assert np.array_equal(change(images[1:, 7:19, 3:9]), whole[1:, 7:19, 3:9])
    shuffled = images.reshape(-1, 3)[::-1].reshape(1, -1, 1, 3)
    assert np.array_equal(change(shuffled).reshape(-1, 3)[::-1], whole.reshape(-1, 3))


def test_the_tails_of_a_training_are_left_out():
    stains = [Stain((200.0 + i,) * 3, (0.1 + i / 100,) * 3, 0.5) for i in range(50)]
    entry = stain_range(stains, [1.0] * 49 + [0.0])
    assert entry["images"] == 50
    low, high = np.array(entry["glass"])[:, 0]
    assert 200 < low < 203 and 245 < high < 249
    unknown = [Stain((240.0,) * 3, None, 0.0)]
    assert stain_range(unknown, [1.0]) == {}
    assert stain_range(stains + unknown, [1.0] * 51)["images"] == 50


def test_a_card_keeps_the_range(tmp_path):
    network = unet(widths=(16, 8, 8))
    card = Card(name="unet", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=64, stride=16)
    entry = stain_range([Stain((240.0, 230.0, 220.0), (0.1, 0.2, 0.3), 0.5)], [1.0])
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, network.state_dict(), replace(card, stain=entry))
    assert read_card(path).stain == entry
    save_checkpoint(path, network.state_dict(), card)
    assert read_card(path).stain == {}
