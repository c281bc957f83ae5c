"""The command line: finds the module of a command, and turns errors into one line and a code."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from keyword import iskeyword
from types import MappingProxyType
from typing import Any

import click

from wsi_pipeline.cli.exit_codes import FAILED, STOPPED, USAGE, exit_code
from wsi_pipeline.cli.output import print_error
from wsi_pipeline.core.errors import WsisegError
from wsi_pipeline.core.safe_names import shown

__all__ = ["cli", "main"]

_COMMANDS = MappingProxyType(
    {
        "run": "run",
        "info": "info",
        "models": "models",
        "export": "export",
        "features": "reports",
        "gallery": "gallery",
        "report": "reports",
        "population": "population",
        "cohort": "reports",
        "workflow": "workflow",
        "import": "import_run",
        "dataset": "dataset",
        "train": "train",
        "evaluate": "evaluate",
        "score": "score",
        "spike": "spike",
        "synth": "synth",
        "masks": "masks",
        "benchmark": "benchmark",
        "reproduce": "reproduce",
        "view": "view",
        "doctor": "doctor",
    }
)
"""Command → module of this package that has a click command of that name (``import_``)."""


class _Commands(click.Group):
    """Imports the module of a command when the command is used; handles every expected error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        attribute = f"{name}_" if iskeyword(name) else name
        command = getattr(import_module(f"wsi_pipeline.cli.{_COMMANDS[name]}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "wsiseg"
            print_error(f"{error.format_message()} See `{where} --help`.")
            ctx.exit(USAGE)
        except WsisegError as error:
            print_error(str(error))
            ctx.exit(exit_code(error))
        except OSError as error:
            if error.filename is None or not error.strerror:
                raise
            print_error(f"{shown(error.filename)}: {error.strerror}; check the path and its folder")
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            print_error("stopped; run the same command again to resume")
            ctx.exit(STOPPED)


@click.group(
    "wsiseg",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(package_name="wsiseg", message="wsiseg %(version)s")
def cli() -> None:
    """Find every nucleus or cell in whole-slide cervical cytology, as objects for QuPath.

    Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 stopped.
    """


def main() -> None:
    """Run the command line with the arguments of the process."""
    notes = logging.StreamHandler()
    notes.setFormatter(logging.Formatter("wsiseg: %(message)s"))
    logging.getLogger("wsi_pipeline").addHandler(notes)
    # What tifffile finds wrong with a file is in the error of its slide, which names it.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        cli(prog_name="wsiseg")
    except SystemExit as end:
        if end.code == STOPPED:
            # Threads may still wait for a drive that does not answer. Every file is complete at
            # any time, so the process can end without them.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(STOPPED)
        raise
