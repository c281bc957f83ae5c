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
    about = {
        "id": "crowded", "file": slide_path.name, **size, "mpp": {"x": 0.5, "y": 0.5, "source": ""},
        "reader": "openslide", "decoder": "direct", "vendor": "aperio", "notes": [],
        "bounds": [0, 0, size["width"], size["height"]],
    }  # fmt: skip
    model = {
        "name": "darkness", "identity": "darkness", "precision": "float32", "mpp": 0.5,
        "classes": list(cells.classes), "halo_px": 8,
    }  # fmt: skip
    record = {
        "schema_version": 1, "wsiseg": "0", "slide": about, "model": model, "settings": {},
        "foreground": {"rule": "all", "share": 1.0}, "versions": {}, "device": "cpu", "python": "",
        "objects": len(cells), "objects_larger_than_seen": 0, "regions": 1, "failed_regions": [],
        "seconds": 1.0, "stage_seconds": {}, "peak_memory_mb": 1, "batch_reduced_to": None,
        "cluster": None, "adaptation": None,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    for name in ("foreground.geojson", "plan.json"):
        (folder / name).write_text('{"type": "FeatureCollection", "features": []}')
    put_objects(folder, cells)
    return folder


@pytest.fixture
def server(slide_path, run):
    with served([slide_path], [run]) as running:
        yield running
