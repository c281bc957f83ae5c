"""Runs, cells and servers for the tests of the viewer."""

import json

import cv2
import pytest
from run_folders import put_objects
from viewers import grid_of_cells, served

from wsi_pipeline.slides.slide import open_slide


@pytest.fixture
def cells():
    return grid_of_cells()


@pytest.fixture
def run(slide_path, cells, tmp_path):
    """A run folder with a grid of cells as its objects: what the viewer reads of one."""
    folder = tmp_path / "out" / "crowded" / "darkness"
    folder.mkdir(parents=True)
    with open_slide(slide_path) as slide:
        size = {"width": slide.width, "height": slide.height}
        cv2.imwrite(str(folder / "thumbnail.png"), slide.thumbnail()[0])
    about = {"id": "crowded", "file": slide_path.name, **size, "mpp": {"x": 0.5, "y": 0.5}}
    record = {"schema_version": 1, "slide": about, "model": {"name": "darkness"}, "settings": {}}
    (folder / "run.json").write_text(json.dumps(record))
    put_objects(folder, cells)
    return folder


@pytest.fixture
def server(slide_path, run):
    with served([slide_path], [run]) as running:
        yield running
