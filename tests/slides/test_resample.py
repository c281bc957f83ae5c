"""Laws of the resampler."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.slides.resample import _resample, flatten, plan_taps, resample

PICTURE = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)

steps = st.sampled_from([1.0, 2.0, 3.0, 1.002, 4.0003, 0.5]) | st.floats(0.3, 9)
origins = st.sampled_from([0.0, 7.0]) | st.floats(-3, 50)


def cut(picture, rows, columns):
    """The source that taps ask for, as if the picture went on forever by repetition."""
    y = np.arange(rows.start, rows.stop) % len(picture)
    x = np.arange(columns.start, columns.stop) % picture.shape[1]
    return picture[np.ix_(y, x)]


def shrink(picture, rows, columns):
    return resample(cut(picture, rows, columns), rows, columns)


@given(steps, origins, st.integers(-5, 20), st.integers(1, 12), st.data())
def test_a_pixel_is_the_same_in_every_window(step, origin, start, length, data):
    rows = plan_taps(-5, 40, step, 0.25)
    big = shrink(PICTURE, rows, plan_taps(-5, 40, step, origin))
    top = data.draw(st.integers(0, 30))
    small = shrink(
        PICTURE,
        plan_taps(top, top + 3, step, 0.25),
        plan_taps(start, start + length, step, origin),
    )
    np.testing.assert_array_equal(
        small, big[top + 5 : top + 8, start + 5 : start + 5 + length], strict=True
    )


@given(steps, origins)
def test_it_is_a_triangle_filter(step, origin):
    taps = plan_taps(3, 15, step, origin)
    if step == 1 and origin == int(origin):
        expected = PICTURE[(np.arange(3, 15) + int(origin)) % 90].astype(float)
    else:
        # Straight from the definition, over far more source pixels than can matter.
        pixels = np.arange(-200, 400)
        middle = origin + (np.arange(3, 15) + 0.5) * step
        distance = np.abs(pixels + 0.5 - middle[:, None])
        weights = np.maximum(0, 1 - distance / max(1, step))
        weights /= weights.sum(1, keepdims=True)
        expected = np.einsum("ip,pxc->ixc", weights, PICTURE[pixels % 90].astype(float))
    columns = plan_taps(0, 90, 1.0)
    assert np.abs(shrink(PICTURE, taps, columns) - expected).max() <= 0.501
    turned = shrink(PICTURE.transpose(1, 0, 2), columns, taps).transpose(1, 0, 2)
    assert np.abs(turned - expected).max() <= 0.501


def test_halving_has_the_known_weights_and_rounds_half_up():
    taps = plan_taps(10, 20, 2.0)
    np.testing.assert_array_equal(taps.weights, np.tile([0.125, 0.375, 0.375, 0.125], (10, 1)))
    assert (taps.start, taps.stop) == (19, 41)
    column = np.zeros((22, 1, 3), np.uint8)
    column[1:3] = [2, 3, 4]  # times 0.75: 1.5, 2.25, 3
    out = resample(column, taps, plan_taps(0, 1, 1.0))
    assert out[0, 0].tolist() == [2, 2, 3]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_halving_in_whole_numbers_is_the_filter_to_the_last_bit(height, width, seed):
    rows, columns = plan_taps(3, 3 + height, 2.0), plan_taps(7, 7 + width, 2.0, 5)
    shape = (rows.stop - rows.start, columns.stop - columns.start, 3)
    source = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    expected = np.empty((height, width, 3), np.uint8)
    top, left = rows.first - rows.start, columns.first - columns.start
    flat = source.reshape(len(source), -1)
    _resample(flat, top, rows.weights, left, columns.weights, expected)
    np.testing.assert_array_equal(resample(source, rows, columns), expected)


@given(steps, origins, st.integers(0, 255))
def test_one_colour_stays_as_it_is(step, origin, value):
    taps = plan_taps(-3, 9, step, origin)
    out = shrink(np.full((5, 5, 3), value, np.uint8), taps, taps)
    assert out.shape == (12, 12, 3)
    assert (out == value).all()


def test_step_one_copies():
    rows, columns = plan_taps(4, 14, 1.0), plan_taps(0, 6, 1.0, 11.0)
    np.testing.assert_array_equal(shrink(PICTURE, rows, columns), PICTURE[4:14, 11:17])


def test_transparent_pixels_show_the_background():
    rgba = np.random.default_rng(1).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    background = (250, 10, 128)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + np.array(background) * (1 - alpha)
    out = flatten(rgba, background)
    assert np.abs(out - expected).max() <= 0.501
    assert out[0, 0].tolist() == list(background)
    np.testing.assert_array_equal(out[0, 1], rgba[0, 1, :3])
    premultiplied = np.concatenate([rgba[..., :3] * alpha, rgba[..., 3:]], axis=2)
    same = flatten(premultiplied.round().astype(np.uint8), background, premultiplied=True)
    assert np.abs(same - expected).max() <= 1.01
