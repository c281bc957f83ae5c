"""The picture of a result."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from families import linked

from wsi_pipeline.formats.geojson import class_color
from wsi_pipeline.runs.overlay import CELL_OUTLINE, OUTLINE, draw_objects


def test_pictures_show_cells_in_their_own_colour_under_nuclei():
    ring = shapely.box(10, 10, 50, 50)
    objects = linked([ring, shapely.box(20, 10, 30, 20)], ["nucleus", "cell"], [-1, -1])
    objects = replace(objects, classes=("cell", "nucleus"))
    image = np.zeros((60, 60, 3), np.uint8)
    draw_objects(image, objects, origin=(0, 0), scale=1)
    assert image[20, 25].tolist() == pytest.approx(CELL_OUTLINE, rel=0.15)
    for row in (10, 50):
        assert image[row, 25].tolist() == pytest.approx(OUTLINE, rel=0.15, abs=25), (
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
