"""Helpers that do what QuPath does to the export of a run."""

import json

import pytest
from qupath_files import annotation

from wsi_pipeline.formats.convert import export


@pytest.fixture
def exported(run_folder, tmp_path):
    """The objects of the run as QuPath gets them."""
    export(run_folder, tmp_path / "exported.geojson")
    return tmp_path / "exported.geojson"


@pytest.fixture
def edit(exported):
    """Change the features of the export, and write it as QuPath does: without our header."""

    def change(do):
        document = json.loads(exported.read_text("utf-8"))
        features = document["features"]
        changed = do(features)
        text = json.dumps({"type": "FeatureCollection", "features": changed or features})
        exported.write_text(text, encoding="utf-8")
        return exported

    return change


@pytest.fixture
def areas(tmp_path):
    """Write areas as annotations; return the file."""

    def write(*shapes):
        path = tmp_path / "areas.geojson"
        features = [annotation(shape) for shape in shapes]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write
