"""What the tests of the command line share: a slide, its run, and cheap models."""

import shutil

import cheap_models as stand_ins
import openslide
import pytest
from command_line import FAST, succeed


@pytest.fixture(scope="module")
def cheap_models():
    """Models that cost no time; see `cheap_models.py`."""
    with stand_ins.cheap_models():
        yield


@pytest.fixture
def real_models():
    """The networks that ship, in a test of a module that else has cheap ones."""
    with stand_ins.real_models():
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a small slide and its truth, made by the command line."""
    folder = tmp_path_factory.mktemp("made")
    assert succeed("synth", folder / "a.svs", "--size", 768, "--seed", 3, "--tissue", 0.9)
    return folder


@pytest.fixture(scope="module")
def out(made, tmp_path_factory, cheap_models):
    """A folder that holds the run of that slide."""
    folder = tmp_path_factory.mktemp("out")
    succeed("run", made / "a.svs", "--out", folder, *FAST)
    return folder


@pytest.fixture(scope="module")
def ran(out):
    """The run folder."""
    (file,) = out.rglob("run.json")
    return file.parent


@pytest.fixture
def a(made, tmp_path):
    """The slide, alone in a folder."""
    return shutil.copy(made / "a.svs", tmp_path / "a.svs")


@pytest.fixture
def bare(made, tmp_path):
    """The same pixels in a file without a pixel size."""
    with openslide.OpenSlide(made / "a.svs") as opened:
        opened.read_region((0, 0), 0, (300, 200)).convert("RGB").save(tmp_path / "bare.png")
    return tmp_path / "bare.png"
