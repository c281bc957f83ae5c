"""Help texts: every command and option has one, with its default and unit, in plain English."""

from __future__ import annotations

import re

import click
import pytest
from command_line import succeed

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.config import RunConfig

COMMANDS = cli.list_commands(None)
GENERATED = {"train"}
"""Commands with options that depend on an argument; tests of the command itself hold their help."""

NO_START = re.compile(r"^(Of|What|Which|How|From which|After which|Where|As|The|Whether)\b")
"""A help text starts with a verb, or with the noun of its value."""


def default(option):
    return option.to_info_dict()["default"]


def options(command):
    return [p for p in cli.get_command(None, command).params if isinstance(p, click.Option)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_explained(command):
    shown = succeed(command, "--help")
    assert shown == succeed(command, "-h")
    summary = cli.get_command(None, command).get_short_help_str(200)
    assert re.match(r"^[A-Z][a-z]+ ", summary), summary
    assert not NO_START.match(summary), summary
    if command in GENERATED:
        return
    for option in options(command):
        if option.hidden:
            continue
        help_text = option.help or ""
        assert re.match(r"^[A-Z].*[.\]]$", help_text), (option.name, help_text)
        assert not NO_START.match(help_text), (option.name, help_text)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - GENERATED))
def test_a_number_or_a_choice_shows_its_default(command):
    parent = click.Context(cli, info_name="wsiseg", **cli.context_settings)
    ctx = cli.get_command(parent, command).make_context(
        command, ["--help"], parent=parent, resilient_parsing=True
    )
    ctx.show_default = True  # as the group has it
    for option in options(command):
        text = (option.get_help_record(ctx) or ("", ""))[1]
        if default(option) not in (None, False, "", ()) and not option.hidden:
            assert "[default: " in text, option.name
        if option.name.endswith("_um2"):
            assert "µm²" in text, option.name
        if option.name.endswith("_px") or option.name in ("size", "width", "height"):
            assert re.search(r"\bpx\b|pixels", text), option.name
        if option.name == "mpp":
            assert "µm per pixel" in text


def test_the_list_of_commands_is_one_line_each(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = succeed("--help").split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert [line for line in listed if line.endswith("...")] == []


def test_run_has_every_setting_with_its_default():
    by_name = {option.name: option for option in options("run")}
    for field in RunConfig.__dataclass_fields__.values():
        assert default(by_name[field.name]) == field.default


def test_run_names_the_columns_of_a_sheet_and_every_device():
    shown = " ".join(succeed("run", "--help").split())
    (columns,) = re.findall(r"slide sheet[^.]*column[^.]*\.", shown)
    assert [word for word in ("slide", "mpp", "model", "roi") if word not in columns] == []
    assert "auto|cpu|cuda|cuda:N|mps" in shown
