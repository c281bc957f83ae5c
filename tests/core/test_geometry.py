"""Laws of the geometry: cores partition the plane, halos overlap."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.geometry import Box, plan_regions, plan_tiles

sizes = st.integers(1, 150)


@given(sizes, sizes, st.integers(1, 97))
def test_region_cores_partition_the_grid(width, height, side):
    seen = np.zeros((height, width), int)
    numbers = []
    for region in plan_regions(width, height, side):
        c = region.core
        seen[c.y0 : c.y1, c.x0 : c.x1] += 1
        numbers.append(region.index)
    assert (seen == 1).all()
    assert numbers == list(range(len(numbers)))


@given(st.integers(-50, 50), st.integers(-50, 50), sizes, sizes, st.integers(1, 97))
def test_tile_cores_cover_a_window_once_and_have_one_shape(x, y, width, height, side):
    window = Box(x, y, x + width, y + height)
    seen = np.zeros((height, width), int)
    for tile in plan_tiles(window, side, 8):
        assert (tile.core.width, tile.core.height) == (side, side)
        assert tile.window == tile.core.grow(8)
        kept = tile.core.clip(window).shift(-x, -y)
        seen[kept.y0 : kept.y1, kept.x0 : kept.x1] += 1
    assert (seen == 1).all()


@given(st.integers(-99, 99), st.integers(-99, 99), sizes, sizes, st.integers(1, 16))
def test_snap_grows_to_multiples_by_less_than_one_stride(x, y, width, height, stride):
    box = Box(x, y, x + width, y + height)
    snapped = box.snap(stride)
    assert all(v % stride == 0 for v in (snapped.x0, snapped.y0, snapped.x1, snapped.y1))
    assert box.clip(snapped) == box
    assert max(x - snapped.x0, y - snapped.y0, snapped.x1 - box.x1, snapped.y1 - box.y1) < stride


@given(st.integers(-99, 99), st.integers(-99, 99), sizes, sizes, st.integers(9, 97))
def test_a_box_is_cut_into_the_cells_of_a_grid(x, y, width, height, side):
    box = Box(x, y, x + width, y + height)
    seen = np.zeros((height, width), int)
    for part in box.cut(side, side + 3):
        assert part.x0 // side == (part.x1 - 1) // side
        assert part.y0 // (side + 3) == (part.y1 - 1) // (side + 3)
        seen[part.y0 - y : part.y1 - y, part.x0 - x : part.x1 - x] += 1
    assert (seen == 1).all()
