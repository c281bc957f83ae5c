"""Slides and models that the tests share; everything is generated, small and exact."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cheap_models import make_darkness
from filelock import FileLock
from hypothesis import settings
from numba.core.caching import IndexDataCacheFile

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.synthetic import placement
from wsi_pipeline.synthetic.svs_writer import SlidePlan, plan_slide, write_slide

# `make test` tries few examples of each property, `make test-all` many. In CI the examples are the
# same each time; by hand they are new. No deadline: numba compiles a function at its first call.
for _name, _examples in (("short", 25), ("long", 100)):
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the file of the longest tests, so that no process waits for them at the end."""
    items.sort(key=lambda item: item.path.name != "test_documented_commands.py")


@pytest.fixture(autouse=True, scope="session")
def few_sprites() -> Iterator[None]:
    """Paint few sprites for a slide: painting them all takes seconds, and few tests need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SPRITES", 60)
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without network or graphics card; one for all tests, since Playwright allows one."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium")
    arguments = [
        "--headless", "--no-sandbox", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-quic", "--use-gl=angle",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-gpu-rasterization",
        "--disable-accelerated-2d-canvas",
    ]  # fmt: skip
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def darkness() -> Model:
    """One `Darkness` for all tests."""
    return make_darkness()


@pytest.fixture(scope="session")
def plan() -> SlidePlan:
    """A crowded slide at 0.5 µm, none of whose sides is a round number."""
    return plan_slide(1003, 811, mpp=0.5, seed=11, tissue=0.8)


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


@pytest.fixture(scope="session")
def run_folder(slide_path: Path, darkness: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder crowded/darkness, not to be changed."""
    config = RunConfig(out=tmp_path_factory.mktemp("runs"), quiet=True)
    return run_slide(slide_path, config, model=darkness).folder


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, to be changed."""
    return shutil.copytree(run_folder, tmp_path / "runs" / "crowded" / "darkness")
