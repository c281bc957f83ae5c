"""Run `wsiseg` in this process, as the tests do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from wsi_pipeline.cli.main import cli

FAST = ("--tile-px", "256", "--device", "cpu")


def wsiseg(*args: object) -> Result:
    """Exit code, standard output and standard error of a command."""
    result = CliRunner().invoke(cli, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_record(folder: Path) -> dict[str, Any]:
    """The run.json of the only run at or below a folder."""
    (file,) = folder.rglob("run.json")
    return json.loads(file.read_text())


def succeed(*args: object) -> str:
    """Standard output of a command that must end with exit code 0."""
    result = wsiseg(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def complaint(result: Result, code: int) -> str:
    """The one line that a command wrote which ended with `code`."""
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("wsiseg: ")
    return result.stderr
