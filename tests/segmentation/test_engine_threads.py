"""Laws of the threads that run the network: all of them start, or the run fails with the cause."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import cheap_models
import pytest

from wsi_pipeline.core.errors import DeviceError, OutOfMemoryError
from wsi_pipeline.segmentation.inference import Engine


def network_threads():
    return [t for t in threading.enumerate() if t.name.startswith("network")]


def engine(at_once, share):
    model = replace(cheap_models.make_darkness(), at_once=at_once, share=share, device="cuda:0")
    return Engine(SimpleNamespace(width=64, height=64), model, None, scale=1, tile_px=64, batch=1)


def failing(number, error):
    """Return a set-up that raises `error` in one of the threads."""

    def share():
        if threading.current_thread().name == f"network {number}":
            raise error

    return share


@pytest.mark.parametrize(("at_once", "number"), [(1, 0), (3, 0), (3, 2)])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(RuntimeError("no stream\nfor you"), DeviceError),
     (RuntimeError("CUDA error: out of memory"), OutOfMemoryError),
     (ValueError(), DeviceError), (SystemExit(3), SystemExit)],
)  # fmt: skip
def test_a_thread_that_cannot_be_set_up_fails_the_run(at_once, number, error, kind):
    with pytest.raises(kind) as raised, engine(at_once, failing(number, error)):
        raise AssertionError("the run has begun")
    assert not network_threads()
    if kind is not SystemExit:
        assert "threads cannot start on cuda:0" in str(raised.value)
        assert "another --device" in str(raised.value) and "\n" not in str(raised.value)


def test_a_system_without_further_threads_fails_the_run(monkeypatch):
    start, begun = threading.Thread.start, []

    def refuse(thread):
        begun.append(thread)
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    one = engine(3, lambda: None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DeviceError, match="can't start new thread"), one:
        raise AssertionError("the run has begun")
    assert not network_threads()


def test_threads_that_start_end_with_the_engine():
    with engine(3, lambda: None):
        assert len(network_threads()) == 3
    assert not network_threads()
