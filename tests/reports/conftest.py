"""Run folders for the tests of tables and pages."""

import json
import shutil

import pytest
from run_folders import change_run

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.pipeline import run_slide


@pytest.fixture(scope="session")
def run_folder(slide_path, darkness, tmp_path_factory):
    """The run folder crowded/darkness, not to be changed."""
    config = RunConfig(out=tmp_path_factory.mktemp("runs"), quiet=True)
    return run_slide(slide_path, config, model=darkness).folder


@pytest.fixture
def folder(run_folder, tmp_path):
    """A copy of the run folder, to be changed."""
    return shutil.copytree(run_folder, tmp_path / "runs" / "crowded" / "darkness")


@pytest.fixture
def slide_folder(folder):
    """A slide's folder with runs of two models, darkness and other."""
    other = shutil.copytree(folder, folder.with_name("other"))
    model = json.loads((other / "run.json").read_text())["model"]
    change_run(other, model=model | {"name": "other"}, seconds=1.5)
    return folder.parent
