"""Rules for the source files that no linter states in full: exceptions, imports, sizes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("wsi_pipeline", "models", "workflows", "experiments")
SOURCES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]

# Lines that may use what pyproject.toml bans (`noqa: TID251`): by file, what each such line has.
EXCEPTIONS = {
    # The comparison has just written this file itself.
    "experiments/peers/peer.py": ["torch.jit.load("],
    "experiments/nucleus_kinds_data.py": ["np.load(", "allow_pickle=False"],
    "models/checkpoint.py": ["torch.load(", "weights_only=True"],
    "wsi_pipeline/runs/part_file.py": ["np.load(", "allow_pickle=False"],
    # Messages of a Dask cluster, which unpickles every message anyway: see docs/security.md.
    "wsi_pipeline/runs/dask_worker.py": ["pickle.loads("],
    "wsi_pipeline/runs/messages.py": ["pickle.loads("],
    "experiments/fuzz/fuzz.py": ["import resource"],
    # Behind a check, or in a `try`, with another way for the other systems.
    "wsi_pipeline/batch/snakemake.py": ["os.killpg("],
    "wsi_pipeline/core/machine.py": ["import resource"],
    "wsi_pipeline/runs/lock.py": ["import fcntl"],
    "wsi_pipeline/slides/fast_tiff.py": ["os.pread("],
}


def lines_with(pattern: str) -> list[tuple[str, str]]:
    """Lines of all source files that match, as (file, line)."""
    return [
        (path.relative_to(ROOT).as_posix(), line.strip())
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(pattern, line)
    ]


def test_exceptions_to_banned_calls_are_listed():
    excepted = lines_with(r"noqa:.*(TID251|\bS\d)")
    assert {file for file, _ in excepted} == set(EXCEPTIONS)
    for file, line in excepted:
        assert all(part in line for part in EXCEPTIONS[file]), (file, line)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(p, weights_only=True)",
        "import torch as t\nt.load(p, weights_only=False)",
        "from torch import load\nload(p)",
        "import torch\ntorch.jit.load(p)",
        "import pickle as k\nk.loads(b)",
        "from pickle import Unpickler\nUnpickler(f)",
        "import cloudpickle\ncloudpickle.loads(b)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import yaml\nyaml.load(f)",
        "import tarfile",
        "from zipfile import ZipFile\nZipFile.extractall(archive, q)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(text)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "import fcntl",
        "import resource",
        "import os\nos.sched_getaffinity(0)",
        "from os import pread",
        "import os\nos.killpg(1, 2)",
        "import signal\nsignal.SIGKILL",
    ],
)
@pytest.mark.parametrize("file", ["wsi_pipeline/a.py", "models/a.py", "experiments/a.py"])
def test_the_linter_refuses_what_is_unsafe_or_not_on_every_system(text, file):
    ruff = shutil.which("ruff", path=Path(sys.executable).parent) or "ruff"
    ended = subprocess.run(
        [ruff, "check", "--stdin-filename", str(ROOT / file), "-"],
        input=text,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout
    assert len(re.findall(r"^(?:TID251|S\d{3})\b", ended.stdout, re.MULTILINE)) >= 1


def test_models_import_each_other_relatively():
    found = lines_with(r"^\s*(from|import) (wsiseg_models|models|wsi_pipeline)\b")
    assert [line for line in found if line[0].startswith("models/")] == []


def test_no_text_names_a_package_index():
    """The package is on no index: documents and errors say `pip install -e`, which works."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "constraints.txt", *SOURCES]
    found = [
        (path.relative_to(ROOT).as_posix(), line.strip())
        for path in texts
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"pip install[^`\n]* '?wsiseg\b", line) and path.name != "RELEASING.md"
    ]
    assert found == []


def test_the_image_copies_files_that_exist_and_that_docker_may_see():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    sent = set((ROOT / ".dockerignore").read_text(encoding="utf-8").replace("!", "").split())
    assert copied <= sent
    assert [name for name in copied if not (ROOT / name).exists()] == []
