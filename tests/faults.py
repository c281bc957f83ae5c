"""Faults that tests put into a run: stops, other runs, drives that do not answer."""

import json
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import asdict, replace

from wsi_pipeline.core.run_layout import LOCK_JSON as LOCK
from wsi_pipeline.runs import run_folder as store
from wsi_pipeline.runs.lock_owner import LockOwner
from wsi_pipeline.slides import fast_tiff as direct

ELSEWHERE = "another machine"
COMMAND = """
    import signal, sys, time
    sys.path.insert(0, {tests!r})
    from dataclasses import replace
    from cheap_models import make_darkness
    from wsi_pipeline.cli import main as cli
    from wsi_pipeline.slides import fast_tiff as direct
    from wsi_pipeline.segmentation import load_model as registry
    from wsi_pipeline import pipeline
    from wsi_pipeline.runs import work_plan
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this is in a shell's &
    work_plan.REGION_PX = 200
    darkness = make_darkness()
    {more}
    registry.model_for = lambda config: darkness
    sys.argv = ["wsiseg", "run", *{slides!r}, "--foreground", "all", "--quiet", "--tile-px", "384",
                "--out", {out!r}, *{options!r}]
    cli.main()
"""
SLOW = (
    "darkness = replace(darkness, "
    "network=lambda images, inner=darkness.network: (time.sleep(0.1), inner(images))[1])"
)


def at_region(monkeypatch, number, fault):
    """Call `fault` before the part of the `number`th region to be finished is written."""
    write, seen = store.RunFolder.write_part, []

    def noticed(self, region, *rest):
        seen.append(region)
        if len(seen) == number:
            fault(self)
        write(self, region, *rest)

    monkeypatch.setattr(store.RunFolder, "write_part", noticed)


def leave_lock(folder, **owner):
    """A lock as a run on another machine has left it, or as `owner` says."""
    folder.mkdir(parents=True, exist_ok=True)
    left = replace(LockOwner.this_process(), **{"machine": ELSEWHERE, "host": "other", **owner})
    (folder / LOCK).write_text(json.dumps(asdict(left)))
    return folder / LOCK


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def command(request, out, slides, more="", *options):
    """`wsiseg run` with the model `darkness`, in a process of its own."""
    script = textwrap.dedent(COMMAND).format(
        tests=str(request.config.rootpath / "tests"), more=more,
        slides=[str(s) for s in slides], out=str(out), options=options,
    )  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_for(count, folder, process):
    until = time.monotonic() + 120
    while len(list(folder.glob("*.npz"))) < count and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert len(list(folder.glob("*.npz"))) >= count


class Stalling:
    """Reads of level 0 in which the drive does not answer, until `answer` is set."""

    def __init__(self, monkeypatch, after, hang=1):
        self.answer = threading.Event()
        self.reads = 0
        read = direct.FastTiffReader.read

        def stalled(reader, *args):
            self.reads += 1
            if after < self.reads <= after + hang:
                self.answer.wait(300)
            return read(reader, *args)

        monkeypatch.setattr(direct.FastTiffReader, "read", stalled)
