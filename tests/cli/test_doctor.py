"""Laws of `wsiseg doctor`."""

from __future__ import annotations

from command_line import wsiseg

from wsi_pipeline.cli import doctor


def test_doctor(monkeypatch):
    result = wsiseg("doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    for name in ("Python", "OpenSlide", "PyTorch", "GPU", "memory", "disk", "dssnet: sha256"):
        assert any(name in line for line in lines), name

    def lost():
        raise RuntimeError("libfoo.so is missing")

    monkeypatch.setattr(doctor, "_openslide", lost)
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 10**9)
    result = wsiseg("doctor")
    assert result.exit_code == 1
    assert any(
        line.startswith("broken") and "libfoo.so" in line for line in result.stdout.split("\n")
    )
    assert any(line.startswith("warn") and "--out" in line for line in result.stdout.split("\n"))
