"""Command lines: each command with words, options and values of any kind, in an empty folder."""

from __future__ import annotations

import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import click
import seeds
from click.testing import CliRunner

from wsi_pipeline.cli.main import cli

__all__ = ["prepare", "run"]

VALUES = ("", " ", "-", "--", "0", "1", "-1", "0.5", "1e9", "1e-9", "nan", "inf", "-inf", "1e400",
          "10000000000000000000000", "x", "é", "\udc80", "a\nb", "\x1b[2J", ".", "..", "/",
          "~", "*", "[", "**/*", "no.svs", "out", "a.svs", "a.csv", "run", "run/run.json",
          "a.geojson", "a.geojson/x", "dssnet", "threshold", "all", "auto", "cpu", "cpu:0",
          "cuda:99", "mps:1", "fold:0/5", "a=1", "[[[[", "{}", "1,2", "x" * 300, "tcp://127.0.0.1:1",
          "a.html")  # fmt: skip
SLOW = {"train", "benchmark", "reproduce", "workflow", "doctor", "masks", "view"}
"""Commands of which only refusals are tried: they take long, start programs, or serve for ever."""
UNUSED = {"--scheduler", "--install-completion"}


@cache
def prepare() -> None:
    """Make the seeds, and import every command."""
    seeds.run_folder()
    seeds.geojson()
    for name in cli.list_commands(click.Context(cli)):
        cli.get_command(click.Context(cli), name)


def run(rng: random.Random, folder: Path) -> None:
    """Run one command line; raise what it raises, or an AssertionError for an answer of its own."""
    _files(folder)
    words = _words(rng)
    result = CliRunner().invoke(cli, words, prog_name="wsiseg", catch_exceptions=True)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    if result.exit_code not in (0, 1, 2):
        raise AssertionError(f"exit code {result.exit_code}: {words}")
    lines = [line for line in result.stderr.splitlines() if line.startswith("wsiseg: ")]
    if result.exit_code == 2 and len(lines) != 1:  # besides warnings about what is left out
        raise AssertionError(f"{len(lines)} lines for {words!a}: {lines[:2]}")


def _files(folder: Path) -> None:
    shutil.copytree(seeds.run_folder(), folder / "run")
    (folder / "a.svs").write_bytes(seeds.slides()["plain.tif"])
    (folder / "a.geojson").write_bytes(seeds.geojson()[2])
    (folder / "a.csv").write_bytes(seeds.sheets()[0])


def _words(rng: random.Random) -> list[str]:
    context = click.Context(cli)
    name = rng.choice(sorted(cli.list_commands(context)))
    command: Any = cli.get_command(context, name)
    words = [name]
    if isinstance(command, click.Group):
        inner = click.Context(command, info_name=name, parent=context)
        chosen = rng.choice([*command.list_commands(inner), *VALUES[:3]])
        words.append(chosen)
        command = command.get_command(inner, chosen) or command
    params = [p for p in command.params if not set(p.opts) & UNUSED]
    for param in params:
        if isinstance(param, click.Argument):
            words += [rng.choice(VALUES) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    options = [p for p in params if isinstance(p, click.Option)]
    for option in rng.sample(options, min(len(options), rng.choice((0, 1, 1, 2, 3)))):
        words.append(rng.choice([*option.opts, *option.secondary_opts]))
        if not option.is_flag:
            words.append(rng.choice(VALUES))
    if name in SLOW:
        words = ["-" if word == "--" else word for word in words]  # no option is refused behind it
    if name in SLOW or rng.random() < 0.1:
        words.append(rng.choice(("--nope", "-Z")))
    return words
