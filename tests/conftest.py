"""Slides and models that the tests share; everything is generated, small and exact."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from numba.core.caching import IndexDataCacheFile
from wsiseg_models.checkpoint import Card

from wsi_pipeline.segmentation.load_model import model_from_module
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.synthetic.svs_writer import SlidePlan, plan_slide, write_slide

# `make test` tries few examples of each property, `make test-all` many. In CI the examples are the
# same each time; by hand they are new. No deadline: numba compiles a function at its first call.
for _name, _examples in (("short", 25), ("long", 200)):
    settings.register_profile(
        _name, deadline=None, derandomize="CI" in os.environ, max_examples=_examples
    )
settings.load_profile("short")

SHARED = Path(__file__).parents[2] / "shared" / "data"


def lock_compiled_functions() -> None:
    """Let one process at a time add to numba's cache, which the workers of pytest-xdist share.

    numba reads a function's index, takes the first free number for the new variant and writes the
    index back: two processes at once can take the same number for different variants.
    """
    save = IndexDataCacheFile.save

    def locked(self: IndexDataCacheFile, key: object, data: object) -> None:
        with FileLock(self._index_path + ".lock"):
            save(self, key, data)

    IndexDataCacheFile.save = locked


lock_compiled_functions()


class Darkness(torch.nn.Module):
    """Dark pixels, blurred, are nuclei; whole numbers only, so no order of summing shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = sum(x.sum(1, keepdim=True).roll(i, 2) for i in (-2, -1, 0, 1, 2))
        return sum(rows.roll(i, 3) for i in (-2, -1, 0, 1, 2))


def darkness_bytes(light: torch.Tensor) -> torch.Tensor:
    """Light (n, 1, h, w) summed over 75 values → probability bytes, 128 at a mean of 150."""
    return ((150 * 75 - light) / 16 + 128).floor().clamp(0, 255).to(torch.uint8)


def make_darkness() -> Model:
    """The model `Darkness`: needs 2 px of context; 8 keeps windows on its stride."""
    card = Card(
        name="darkness", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=8, mean=0, std=1
    )
    return model_from_module(Darkness(), card, decode=darkness_bytes, device="cpu")


@pytest.fixture(scope="session")
def darkness() -> Model:
    """One `Darkness` for all tests."""
    return make_darkness()


@pytest.fixture(scope="session")
def plan() -> SlidePlan:
    """A crowded slide at 0.5 µm, none of whose sides is a round number."""
    return plan_slide(1403, 1211, mpp=0.5, seed=11, tissue=0.8)


@pytest.fixture(scope="session")
def slide_path(plan: SlidePlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plan` as a file."""
    path = tmp_path_factory.mktemp("slides") / "crowded.svs"
    write_slide(path, plan)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data, where it is at hand."""
    if not SHARED.is_dir():
        pytest.skip("the real data is not here")
    return SHARED
