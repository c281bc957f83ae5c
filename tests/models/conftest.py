"""Networks that the tests of models share."""

import os

import pytest
import torch
from drawn_cells import write_set
from filelock import FileLock
from tiny_networks import BUILDERS, TINY, learned


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for further threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path):
    """Five drawn fields of overlapping cells, as a COCO set."""
    return write_set(tmp_path / "data")


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.slow) for name in BUILDERS],
)
def trained(request, tmp_path_factory):
    """A tiny network that has learned the scene, and its total loss at each step.

    Trained once, also where several processes run the tests.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / f"trained-{request.param}.pt"
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            network, totals = learned(BUILDERS[request.param], 90)
            torch.save({"state": network.state_dict(), "totals": totals}, path)
        stored = torch.load(path, weights_only=True)
    network = BUILDERS[request.param](**TINY)
    network.load_state_dict(stored["state"])
    return network.eval(), stored["totals"]
