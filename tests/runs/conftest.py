"""Runs in many small regions, the result of one of them, and a lock that is quick."""

import pytest
from test_pipeline import objects_of, run

from wsi_pipeline.runs import lock, work_plan


@pytest.fixture
def small_regions(monkeypatch):
    """30 regions, so that a fault meets some that are done and some that are not."""
    monkeypatch.setattr(work_plan, "REGION_PX", 200)


@pytest.fixture(scope="session")
def undisturbed(slide_path, darkness, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", 200)
        result = run(slide_path, tmp_path_factory.mktemp("undisturbed"), darkness)
    assert result.summary["regions"] == 30 and result.objects > 300
    return objects_of(result)


@pytest.fixture
def quick_lock(monkeypatch):
    """A lock that does in tenths of a second what it does in minutes."""
    for name, seconds in (("RENEW_S", 0.05), ("POLL_S", 0.02), ("SILENT_S", 1.0),
                          ("CONFIRM_S", 0.4), ("PUT_BACK_S", 0.2)):  # fmt: skip
        monkeypatch.setattr(lock, name, seconds)
