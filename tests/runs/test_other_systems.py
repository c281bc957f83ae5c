"""The lock without what only Linux has: fcntl, /proc, os.utime of an open file."""

import json
import os
import subprocess
import sys
import textwrap

import psutil
import pytest

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.runs import lock_owner
from wsi_pipeline.runs.lock import RunLock
from wsi_pipeline.runs.lock_owner import LockOwner

WITHOUT = """
    import os, sys
    import psutil  # uses these modules itself, on Linux
    for name in ("fcntl", "resource"):
        sys.modules[name] = None
    for name in ("sched_getaffinity", "pread"):
        delattr(os, name)
    import wsi_pipeline.batch.run_many
    import wsi_pipeline.pipeline
    from pathlib import Path
    from wsi_pipeline.runs.lock import RunLock
    from wsi_pipeline.runs.lock_owner import LockOwner
    folder = Path(sys.argv[1])
    lock = RunLock(folder)
    lock.check()
    lock.release()
"""


def test_the_main_job_imports_and_locks_without_the_modules_of_unix(tmp_path):
    script = textwrap.dedent(WITHOUT)
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def elsewhere(monkeypatch):
    """Another system than Linux, with a network card."""
    monkeypatch.setattr(lock_owner.sys, "platform", "darwin")
    monkeypatch.setattr(lock_owner.uuid, "getnode", lambda: 0x001122334455)
    monkeypatch.setattr(os, "supports_fd", os.supports_fd - {os.utime})
    monkeypatch.setitem(sys.modules, "fcntl", None)


def test_processes_are_told_apart_without_proc(elsewhere, tmp_path, monkeypatch):
    mine = LockOwner.this_process()
    assert mine.runs() is True and mine.machine.endswith("001122334455")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = round(psutil.Process(child.pid).create_time() * 100)
    other = LockOwner(**{**vars(mine), "pid": child.pid, "process_start": start})
    assert other.runs() is True
    assert LockOwner(**{**vars(other), "process_start": start - 100}).runs() is False
    child.communicate(b"\n")
    assert other.runs() is False
    assert LockOwner(**{**vars(other), "machine": "x"}).runs() is None
    monkeypatch.setattr(lock_owner.uuid, "getnode", lambda: 0x011122334455)  # made up
    assert LockOwner.this_process().machine == "" and LockOwner.this_process().runs() is None


def test_a_lock_is_held_and_taken_over_without_the_modules_of_unix(elsewhere, tmp_path):
    first = RunLock(tmp_path)
    with pytest.raises(OutputError, match="is being written by pid"):
        RunLock(tmp_path)
    first.check()
    first.release()
    ended = LockOwner(**{**vars(LockOwner.this_process()), "process_start": 1})
    (tmp_path / "lock.json").write_text(json.dumps(vars(ended)))
    second = RunLock(tmp_path)
    second.check()
    second.release()
    assert list(tmp_path.iterdir()) == []
