"""Laws of `wsiseg doctor`: a line for each check, whatever is broken, on every system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from command_line import succeed, wsiseg
from wsiseg_models import registry
from wsiseg_models.checkpoint import shipped_models

from wsi_pipeline.cli import doctor

NAMES = ("Python", "wsiseg", "OpenSlide", "PyTorch", "GPU", "processors", "memory", "disk")

pytestmark = pytest.mark.usefixtures("cheap_models")


def findings(text):
    """Status and rest of each line."""
    return [line.split(maxsplit=1) for line in text.splitlines()]


def test_a_line_for_each_check():
    lines = findings(succeed("doctor"))
    assert {status for status, _ in lines} <= {"ok", "warn"}
    for name in (*NAMES, "model        dssnet: sha256", "model        maskrcnn: no weights"):
        assert any(rest.startswith(name) for _, rest in lines), name


@pytest.mark.slow
def test_the_networks_that_ship_work(real_models):
    assert "dssnet: sha256" in succeed("doctor")


def test_a_broken_part_does_not_hide_the_others(monkeypatch):
    def lost():
        raise RuntimeError("libfoo.so\nis missing")

    def load(path):
        raise ValueError(f"{path.name}: weights do not fit")

    monkeypatch.setattr(doctor, "_openslide", lost)
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 10**9)
    monkeypatch.setattr(registry, "load", lambda path, **options: load(path))
    result = wsiseg("doctor")
    assert result.exit_code == 1
    lines = findings(result.stdout)
    broken = [rest for status, rest in lines if status == "broken"]
    assert "libfoo.so is missing" in broken[0]
    assert ["weights do not fit" in rest for rest in broken[1:]] == [True] * len(shipped_models())
    assert all("; pip install" in rest for rest in broken)
    assert any(rest.startswith("disk") and "--out" in rest for s, rest in lines if s == "warn")


def test_a_system_without_linux_files(monkeypatch):
    read_text = Path.read_text

    def linux_only(path, *args, **more):
        if path.parts[1:2] in (("sys",), ("proc",)):
            raise FileNotFoundError(path)
        return read_text(path, *args, **more)

    monkeypatch.setattr(Path, "read_text", linux_only)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    shown = succeed("doctor")
    assert "GPU          mps" in shown
    assert f"{os.cpu_count()} usable of {os.cpu_count()}" in shown
