"""Laws of signals: what is in flight is finished, and the rest is done by the next run."""

import os
import signal
import threading
import time

import pytest
from faults import SLOW, at_region, command, wait_for
from test_pipeline import objects_of, run, same

from wsi_pipeline.cli.signals import stop_on_signals
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.run_layout import LOCK_JSON as LOCK
from wsi_pipeline.pipeline import run_slide

pytestmark = pytest.mark.usefixtures("small_regions")


@pytest.mark.slow
def test_the_first_signal_finishes_what_is_in_flight(
    slide_path, darkness, undisturbed, tmp_path, request
):
    second = tmp_path / "second.svs"
    second.symlink_to(slide_path)
    process = command(request, tmp_path / "out", [slide_path, second], SLOW)
    parts = tmp_path / "out/crowded/darkness" / "parts"
    wait_for(3, parts, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # as a terminal and `timeout` do: still the first
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert told.startswith("wsiseg: stopped; ") and told.count("\n") == 1
    done = sorted(p.name for p in parts.iterdir())
    assert 3 <= len(done) < 30 and all(name.endswith(".npz") for name in done)
    assert not (tmp_path / "out" / "second").exists()
    assert sorted(p.name for p in parts.parent.iterdir()) == ["parts", "plan.json"]
    assert same(objects_of(run(slide_path, tmp_path / "out", darkness)), undisturbed)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(slide_path, darkness, undisturbed, tmp_path, request):
    forever = (
        "from wsi_pipeline.runs.run_folder import RunFolder\n"
        "seen, write = [], RunFolder.write_part\n"
        "RunFolder.write_part = lambda self, n, *rest: "
        "write(self, n, *rest) if not seen and not seen.append(n) else time.sleep(3600)"
    )
    process = command(request, tmp_path, [slide_path], forever)
    wait_for(1, tmp_path / "crowded/darkness" / "parts", process)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert "stopped; " in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert (tmp_path / "crowded/darkness" / LOCK).exists()
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)


def test_signals_set_a_flag_and_are_given_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals(quiet=True) as stop:
        assert not stop.is_set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.is_set()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    caught = []

    def elsewhere():
        with stop_on_signals():
            caught.extend(signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == before


def test_a_run_from_python_stops_by_its_flag(
    slide_path, darkness, undisturbed, tmp_path, monkeypatch
):
    stop = threading.Event()
    at_region(monkeypatch, 4, lambda _: stop.set())
    config = RunConfig(out=tmp_path, foreground="all", quiet=True, tile_px=384)
    with pytest.raises(KeyboardInterrupt):
        run_slide(slide_path, config, model=darkness, stop=stop)
    assert 4 <= len(list((tmp_path / "crowded/darkness" / "parts").iterdir())) <= 3 + config.workers
    result = run_slide(slide_path, config, model=darkness, stop=threading.Event())
    assert same(objects_of(result), undisturbed)
