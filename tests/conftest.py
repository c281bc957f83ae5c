"""Slides and models that the tests share; everything is generated, small and exact."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from wsiseg_models.checkpoint import Card

from wsi_pipeline.registry import Model, model_from_module
from wsi_pipeline.synth import SlidePlan, plan_slide, write_slide

# Compiling numba's functions at their first call is no reason to fail.
settings.register_profile("wsiseg", deadline=None)
settings.load_profile("wsiseg")

SHARED = Path(__file__).parents[2] / "shared" / "data"


class Darkness(torch.nn.Module):
    """A network with a small receptive field: dark pixels, blurred, are nuclei."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = torch.nn.Conv2d(3, 1, 9, padding=4)
        torch.nn.init.constant_(self.blur.weight, -1 / 243)
        torch.nn.init.constant_(self.blur.bias, -0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = 12 * self.blur(x)
        return torch.cat([torch.zeros_like(dark), dark], 1)


@pytest.fixture(scope="session")
def darkness() -> Model:
    """The model `Darkness`: needs 4 px of context; 8 keeps windows on its stride."""
    card = Card(name="darkness", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=8)
    return model_from_module(Darkness(), card, device="cpu")


@pytest.fixture(scope="session")
def plan() -> SlidePlan:
    """A crowded slide of 4 regions (2 × 2) at 0.5 µm, none of whose sides is a round number."""
    return plan_slide(2603, 2411, mpp=0.5, seed=11, tissue=0.7)


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
