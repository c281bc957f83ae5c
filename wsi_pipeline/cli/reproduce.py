"""`wsiseg reproduce`: the tables of the papers, beside our figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.exit_codes import FAILED
from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import FILE, NEW_FOLDER, device_option, quiet_option
from wsi_pipeline.cli.output import table as as_text
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.progress import announce
from wsi_pipeline.reproduce.recipe import PAPERS, choose_rows, read_recipe

__all__ = ["reproduce", "train_words"]


@click.command()
@click.argument("paper", type=click.Choice(PAPERS))
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="Folder for table.md, table.json, table.svg and the trainings.  "
    "[default: reproduced/PAPER, with --small and --fast in its name]",
)
@click.option(
    "--data-root", type=FILE, help="Folder of the data sets that the recipe names; see --list."
)
@click.option(
    "--weights",
    type=FILE,
    help="Folder with files of weights to start from, for rows whose networks did.",
)
@click.option(
    "--rows",
    "--only",
    "only",
    multiple=True,
    metavar="NAME",
    help="Run only this row, or the rows of a pattern such as 'width-*'. Repeatable.",
)
@click.option(
    "--folds",
    type=int,
    default=0,
    help="Hold out each of this many folds in turn and show the mean; 0: one fold.",
)
@click.option("--seed", type=int, default=0, help="Random seed of the trainings.")
@click.option("--small", is_flag=True, help="Train small networks for few steps, for a CPU.")
@click.option("--fast", is_flag=True, help="Check that all rows run, in minutes; no results.")
@click.option("--list", "listed", is_flag=True, help="List rows and data sets, and run nothing.")
@click.option(
    "--recipes", type=FILE, help="Folder of recipes, PAPER.yaml, instead of those that ship."
)
@device_option
@quiet_option
def reproduce(
    paper: str, out: Path | None, only: tuple[str, ...], listed: bool, quiet: bool, small: bool,
    fast: bool, recipes: Path | None, **settings: Any,
) -> None:  # fmt: skip
    """Train and measure the rows of a paper's tables.

    The published figures stand beside ours. Rows whose data or model is not here are listed with
    the reason; nothing is downloaded. Run the same command again to resume: finished rows are not
    run again. docs/papers.md explains each row.
    """
    if small and fast:
        raise UsageError("--small and --fast exclude each other; give one")
    budget: Any = "small" if small else "fast" if fast else "published"
    if listed:
        _show(paper, budget, only, recipes)
        return
    suffix = "" if budget == "published" else f"-{budget}"
    with announce("loading PyTorch", quiet=quiet):
        from wsi_pipeline.reproduce.run import ReproduceConfig
        from wsi_pipeline.reproduce.run import reproduce as run
        from wsi_pipeline.reproduce.table import has_failed, table_rows
    config = ReproduceConfig(
        paper=paper, out=out or Path("reproduced") / f"{paper}{suffix}", budget=budget, only=only,
        recipes=recipes, **settings,
    )  # fmt: skip

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    with announce_compilation(quiet=quiet):
        result = run(config, train_words, say)
    if not quiet:
        click.echo(as_text([line[:4] for line in table_rows(result)]))
        click.echo(f"{config.out / 'table.md'}")
    if has_failed(result):
        click.get_current_context().exit(FAILED)


def train_words(model: str, words: Sequence[str]) -> None:
    """Run `wsiseg train MODEL` with further words of the command line."""
    from wsi_pipeline.cli.train_options import model_command

    try:
        model_command(model).main([*words], prog_name=f"train {model}", standalone_mode=False)
    except click.UsageError as error:
        raise UsageError(error.format_message()) from error


def _show(paper: str, budget: Any, only: tuple[str, ...], recipes: Path | None) -> None:
    """Print the rows and the data sets of a recipe."""
    recipe = read_recipe(paper, budget, recipes)
    rows = [["row", "model", "data", "split", "title"]]
    for row in choose_rows(recipe, only):
        rows.append([row.name, row.model, ", ".join(row.sets), row.split, row.title])
    click.echo(f"{recipe.title}\n\n{as_text(rows)}\n")
    sets = [["set", "place below --data-root", ""]]
    for name, entry in recipe.data.items():
        sets.append([name, entry.get("path", "generated"), entry.get("text", "")])
    click.echo(as_text(sets))
