"""The main job on systems without the functions that only Linux or Unix has.

No Windows or macOS machine is needed: a process of its own takes the modules and functions away
that are missing there, then runs the command line. What this cannot show: the file systems'
rules (names, replacing open files) and the other systems' builds of the libraries.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_pipeline.core.run_layout import find_runs
from wsi_pipeline.formats.geoparquet import read_parquet

# What Windows lacks; macOS lacks sched_getaffinity and /proc only.
PREAMBLE = """
import os, signal, sys

MODULES = ["fcntl", "grp", "pwd", "resource", "termios"]
FUNCTIONS = [
    "fchmod", "fork", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpgrp", "getuid",
    "killpg", "lchown", "mkfifo", "nice", "posix_fadvise", "posix_fallocate", "pread", "preadv",
    "pwrite", "pwritev", "sched_getaffinity", "sched_setaffinity", "setpgid", "setsid",
    "uname", "wait3", "wait4",
]
SIGNALS = ["SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP",
           "SIGTSTP", "SIGUSR1", "SIGUSR2"]

# Libraries have builds of their own for each system.
import dask.threaded, numba, psutil, shapely, tifffile, torch, tqdm, zarr

for name in MODULES:
    sys.modules[name] = None
for name in FUNCTIONS:
    if hasattr(os, name):
        delattr(os, name)
for name in SIGNALS:
    delattr(signal, name)
"""

JOB = """
from wsi_pipeline.cli.main import main

def wsiseg(*args):
    sys.argv = ["wsiseg", *args]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (args, end.code)

wsiseg("synth", "slide.svs", "--size", "700", "--seed", "3")
wsiseg("info", "slide.svs")
wsiseg("run", "slide.svs", "--model", "dssnet", "--tile-px", "256", "--device", "cpu")
wsiseg("run", "slide.svs", "--model", "dssnet", "--tile-px", "256", "--device", "cpu")
wsiseg("export", "out/slide", "objects.geojson")
wsiseg("export", "out/slide", "objects.coco.json")
wsiseg("export", "out/slide", "objects.ome.zarr")
wsiseg("report", "out/slide", "--out", "slide.html")
wsiseg("cohort", "out")
wsiseg("score", "out/slide", "slide.truth.geojson.gz")
wsiseg("models")
"""


@pytest.mark.slow
def test_the_main_job_runs_without_functions_that_only_unix_has(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", PREAMBLE + JOB],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    (folder,) = find_runs(tmp_path / "out")
    objects = read_parquet(folder / "objects.parquet")
    assert len(objects) > 0
    written = json.loads((tmp_path / "objects.geojson").read_text(encoding="utf-8"))
    assert len(written["features"]) == len(objects)
