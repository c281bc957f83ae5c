"""Laws of paths that commands write, over all commands: refused at once, or made whole.

A file needs its folder, a folder of results is made with those above it. Nothing is made of what is
refused.
"""

import click
import pytest
from command_line import complaint, wsiseg

from wsi_pipeline.cli.main import cli
from wsi_pipeline.cli.options import NEW_FOLDER, NewPath

READ = {
    "--area", "--before", "--cells", "--checkpoint", "--cohort", "--config", "--data-root",
    "--dates", "--extended", "--image", "--initial", "--kinds-checkpoint", "--labels", "--nuclei",
    "--pretrained", "--qc", "--recipes", "--roi", "--run", "--suite", "--summary", "--weights",
    "corrected", "images", "labels", "run", "runs", "slide", "source", "sources", "truth",
}  # fmt: skip
"""Paths that commands read. A path that is not listed is written, and must be a `NewPath`."""


def commands(group=cli, words=(), parent=None):
    """Words and command of each command, those of groups included."""
    context = click.Context(group, parent=parent)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name), context)
        else:
            yield (*words, name), command


COMMANDS = dict(commands())
WRITTEN = [
    (words, param)
    for words, command in COMMANDS.items()
    for param in command.params
    if isinstance(param.type, click.Path) and param.opts[0] not in READ
]
FILES = [(words, param) for words, param in WRITTEN if getattr(param.type, "endings", ())]
NAMES = {"synth": "a.svs", "population": "a.svg", "view": "a.geojson", "export": "a.geojson"}


def given(words, written, path, existing):
    """Words of a command with `path` for one parameter, and values for all that it needs."""
    arguments, options = [], []
    for param in COMMANDS[words].params:
        if param is written:
            value = path
        elif param.required:
            value = existing if isinstance(param.type, click.Path) else 1
        else:
            continue
        if isinstance(param, click.Argument):
            arguments.append(value)
        else:
            options += [param.opts[0], value]
    return [*words, *options, *arguments]


def test_each_path_that_is_written_is_known():
    assert len(WRITTEN) > 30
    assert [(words, p.opts) for words, p in WRITTEN if not isinstance(p.type, NewPath)] == []
    assert {words[0] for words, _ in FILES} == {"export", "report", "population", "synth", "view"}


@pytest.mark.parametrize(("words", "param"), FILES, ids=[w[0] for w, _ in FILES])
@pytest.mark.parametrize("more", [(), ("b", "c d")], ids=["one", "three"])
def test_a_file_without_its_folder_is_refused_and_none_is_made(words, param, more, tmp_path):
    existing = tmp_path / "there"
    existing.write_text("slide\n")
    folder = tmp_path.joinpath("a", *more)
    path = folder / NAMES.get(words[0], "a.html")
    said = complaint(wsiseg(*given(words, param, path, existing)), 2)
    command = f"mkdir -p '{folder}'" if more else f"mkdir -p {folder}"
    assert f"folder {folder} does not exist; create it: `{command}`." in said
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    path.parent.mkdir(parents=True)
    assert param.type.convert(path, None, None) == path


@pytest.mark.parametrize(("words", "param"), WRITTEN, ids=[" ".join(w) for w, _ in WRITTEN])
def test_a_file_in_the_place_of_a_folder_is_refused(words, param, tmp_path):
    file = tmp_path / "there"
    file.write_text("slide\n")
    path = file / "b" / NAMES.get(words[0], "a.html")
    said = complaint(wsiseg(*given(words, param, path, file)), 2)
    assert f"{file} is a file; give another folder" in said
    assert file.read_text() == "slide\n"
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(("words", "param"), FILES, ids=[w[0] for w, _ in FILES])
def test_a_folder_in_the_place_of_a_file_is_refused(words, param, tmp_path):
    path = tmp_path / NAMES.get(words[0], "a.html")
    (path / "mine").mkdir(parents=True)
    said = complaint(wsiseg(*given(words, param, path, tmp_path)), 2)
    assert f"{path} is a folder; give the name of a file" in said
    assert (path / "mine").is_dir()


def test_a_folder_of_results_may_be_new_with_those_above_it(tmp_path):
    """That commands make them is tested with the commands: features, cohort, synth --fields."""
    assert NEW_FOLDER.convert(tmp_path / "a" / "b", None, None) == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())
