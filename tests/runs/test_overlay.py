"""The picture of a result."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from families import linked

from wsi_pipeline.core.scale_bar import round_length
from wsi_pipeline.formats.geojson import class_color
from wsi_pipeline.runs.overlay import Density, draw_objects
from wsi_pipeline.runs.picture_frame import INK, Key, Panel, framed


def test_pictures_show_cells_in_their_own_colour_under_nuclei():
    ring = shapely.box(10, 10, 50, 50)
    objects = linked([ring, shapely.box(20, 10, 30, 20)], ["nucleus", "cell"], [-1, -1])
    objects = replace(objects, classes=("cell", "nucleus"))
    image = np.zeros((60, 60, 3), np.uint8)
    draw_objects(image, objects, origin=(0, 0), scale=1)
    cell, nucleus = class_color("cell"), class_color("nucleus")
    assert image[20, 25].tolist() == pytest.approx(cell, rel=0.15, abs=25)
    for row in (10, 50):
        assert image[row, 25].tolist() == pytest.approx(nucleus, rel=0.15, abs=25), (
            "the nucleus is on top"
        )


def test_kinds_of_nuclei_have_their_colours():
    """Those that QuPath gets."""
    names = ["nucleus", "HSIL"]
    boxes = [shapely.box(10, 10, 30, 30), shapely.box(40, 10, 55, 50)]
    image = np.zeros((60, 60, 3), np.uint8)
    draw_objects(image, linked(boxes, names, [-1, -1]), origin=(0, 0), scale=1)
    for x, name in zip((20, 48), names, strict=True):
        assert image[10, x].tolist() == pytest.approx(class_color(name), rel=0.15, abs=25)


def test_an_outline_shows_on_glass_and_after_shrinking():
    image = np.full((200, 200, 3), 245, np.uint8)
    draw_objects(image, linked([shapely.box(40, 40, 160, 160)], ["nucleus"], [-1]),
                 origin=(0, 0), scale=1)  # fmt: skip
    assert (image.max(axis=2) < 200).sum() > 800, "the casing, inside and outside"
    small = image.reshape(100, 2, 100, 2, 3).mean(axis=(1, 3))
    dark = small.min(axis=(1, 2)) < 170
    assert dark[21:79].all(), "each row that the outline meets"
    assert not dark[:18].any()


@pytest.mark.parametrize(("width", "mpp"), [(300, 0.4), (1024, 3.9), (1024, 0.187)])
def test_a_scale_bar_is_as_long_as_it_states(width, mpp):
    white = np.full((200, width, 3), 255, np.uint8)
    colors = [class_color(name) for name in ("cell", "nucleus", "HSIL")]
    keys = [Key(color, "a class with a name of some length") for color in colors]
    picture = framed([Panel(white, mpp, keys)], "s" * 300, "12 nuclei")
    ink = (picture == INK).all(axis=2)
    edges = np.diff(np.pad(ink.astype(int), ((0, 0), (1, 1))))
    runs = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
    assert runs.max() * mpp == pytest.approx(round_length(width / 5 * mpp), abs=2.5 * mpp)
    for color in colors:
        assert (picture == color).all(axis=2).sum() > 50, "the legend has every colour"
    assert picture.shape[1] == max(width, 480)


def test_the_legend_counts_what_was_added():
    objects = linked(
        [shapely.box(10, 10, 30, 30)] * 3, ["nucleus", "HSIL", "nucleus"], [-1, -1, -1]
    )
    density = Density(100, 100)
    density.add(objects)
    density.add(objects)
    assert +density.per_class == {"nucleus": 4, "HSIL": 2}
    assert density.counts.sum() == 6
