"""A slide with several runs, for the tests of tables and pages."""

import json
import shutil

import pytest
from run_folders import change_run


@pytest.fixture
def slide_folder(folder):
    """A slide's folder with runs of two models, darkness and other."""
    other = shutil.copytree(folder, folder.with_name("other"))
    model = json.loads((other / "run.json").read_text())["model"]
    change_run(other, model=model | {"name": "other"}, seconds=1.5)
    return folder.parent
