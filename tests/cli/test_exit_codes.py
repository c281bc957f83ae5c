"""Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 stopped; one line for each error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import complaint, wsiseg

from wsi_pipeline.batch import run_many
from wsi_pipeline.cli.exit_codes import FAILED, STOPPED, USAGE, exit_code
from wsi_pipeline.core import errors
from wsi_pipeline.core.errors import WsisegError
from wsi_pipeline.core.safe_names import NameRefused

CODES = {
    "WsisegError": USAGE,
    "UsageError": USAGE,
    "ConfigError": USAGE,
    "UnknownModelError": USAGE,
    "DeviceError": USAGE,
    "CheckpointError": USAGE,
    "DataError": USAGE,
    "NameRefused": FAILED,
    "SlideError": FAILED,
    "SlideNotFoundError": USAGE,
    "SlideFormatError": FAILED,
    "SlideReadError": FAILED,
    "SlideTimeoutError": FAILED,
    "MppError": FAILED,
    "ClusterError": FAILED,
    "OutOfMemoryError": FAILED,
    "OutputError": FAILED,
}


def classes(base=WsisegError):
    return [base, *(one for below in base.__subclasses__() for one in classes(below))]


def test_every_error_has_a_code():
    import wsi_pipeline.pipeline  # noqa: F401  all classes of errors are defined now

    own = {one.__name__ for one in classes() if one.__module__.startswith("wsi_pipeline.")}
    assert own == set(CODES)
    assert {name for name in errors.__all__ if name[0].isupper()} <= own


@pytest.mark.parametrize("name", CODES)
def test_an_error_ends_a_command_with_one_line_and_its_code(name, tmp_path, monkeypatch):
    error = getattr(errors, name, NameRefused)

    def fail(*args, **more):
        raise error("the first line,\nthe second; the remedy")

    (tmp_path / "a.svs").touch()
    monkeypatch.setattr(run_many, "run_slides", fail)
    told = complaint(wsiseg("run", tmp_path / "a.svs"), CODES[name])
    assert told == "wsiseg: the first line, the second; the remedy\n"
    assert exit_code(error("x")) == CODES[name]


def test_a_stop_has_its_own_code(tmp_path, monkeypatch):
    def stop(*args, **more):
        raise KeyboardInterrupt

    (tmp_path / "a.svs").touch()
    monkeypatch.setattr(run_many, "run_slides", stop)
    told = complaint(wsiseg("run", tmp_path / "a.svs"), STOPPED)
    assert told == "wsiseg: stopped; run the same command again to resume\n"


def test_a_bug_is_not_hidden(tmp_path, monkeypatch):
    def fail(*args, **more):
        raise ZeroDivisionError

    (tmp_path / "a.svs").touch()
    monkeypatch.setattr(run_many, "run_slides", fail)
    with pytest.raises(ZeroDivisionError):
        wsiseg("run", tmp_path / "a.svs")


def test_the_codes_are_documented():
    help_text = " ".join(wsiseg("--help").stdout.split())
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for text in (help_text, readme):
        (codes,) = re.findall(r"Exit codes?:?\s([^\n]*130)", text)
        assert re.findall(r"\b\d+\b", codes) == ["0", str(FAILED), str(USAGE), str(STOPPED)]


def test_the_module_is_the_command():
    shown = subprocess.run(
        [sys.executable, "-m", "wsi_pipeline", "run"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == USAGE
    assert shown.stderr.startswith("wsiseg: Missing argument 'SLIDES...'.")
    assert "See `wsiseg run --help`" in shown.stderr
