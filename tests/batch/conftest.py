"""Slides and a slide sheet for the tests of many slides, and one workflow over them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

QUICK = {"device": "cpu", "workflow": {"threads": 1, "retries": 0}}
SHEET = """\
slide,mpp,model,roi
a.svs,0.4,,
b.svs,,dssnet,half.geojson
words.svs,,,
gone.svs,,,
d{e}.svs,,,
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Three small slides, and a sheet with two, a broken, a missing and a badly named one."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate("abc"):
        write_slide(folder / f"{name}.svs", plan_slide(560, 500, mpp=0.5, seed=seed, tissue=0.9))
    (folder / "words.svs").write_text("no pixels\n")
    square = [[0, 0], [250, 0], [250, 500], [0, 500], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [square]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {}}
    (folder / "half.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    (folder / "slides.csv").write_text(SHEET)
    (folder / "config.yaml").write_text(yaml.safe_dump(QUICK))
    return folder


@pytest.fixture(scope="session")
def quick():
    """Settings of a workflow that is fast for small slides."""
    return QUICK


@pytest.fixture(scope="session")
def run_command():
    """Run a command to its end; `stdout` has what it printed on both streams."""

    def run(*command, **options):
        return subprocess.run(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def start(run_command):
    """Run `wsiseg workflow` with the slide sheet and the settings of a folder."""

    def start(folder, *args, out="out"):
        return run_command(
            Path(sys.executable).with_name("wsiseg"), "workflow", folder / "slides.csv",
            folder / out, "--config", folder / "config.yaml", "--cores", "2", *args,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def ran(made, start):
    """The first workflow over the slides, in made/out."""
    return start(made)
