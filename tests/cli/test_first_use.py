"""The line that explains a wait for compilation: once, and only where numba compiles."""

from __future__ import annotations

import numba
import pytest

from wsi_pipeline.cli import first_use


def compile_anew():
    """Two functions, one of which calls the other, that no cache has."""
    inner = numba.njit(lambda x: x + 1)
    outer = numba.njit(lambda x: inner(x) * 2)
    outer(1)
    return outer


@pytest.mark.parametrize("quiet", [False, True])
def test_compilation_is_announced_once(quiet, monkeypatch, capsys):
    monkeypatch.setattr(first_use, "AFTER_S", 0.0)
    with first_use.announce_compilation(quiet=quiet):
        compiled = compile_anew()
        compile_anew()
    assert capsys.readouterr().err == ("" if quiet else first_use._LINE + "\n")
    with first_use.announce_compilation():
        compiled(1)
    compile_anew()
    assert capsys.readouterr().err == ""


def test_short_compilation_is_not_announced(monkeypatch, capsys):
    monkeypatch.setattr(first_use, "AFTER_S", 1e9)
    with first_use.announce_compilation():
        compile_anew()
        compile_anew()
    assert capsys.readouterr().err == ""
