"""`wsiseg workflow`: process many slides with Snakemake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.exit_codes import FAILED
from wsi_pipeline.cli.options import FILE, NEW_FOLDER, images_option, recursive_option
from wsi_pipeline.cli.output import print_error
from wsi_pipeline.core.errors import UsageError

__all__ = ["workflow"]


class _PassingOn(click.Command):
    """Keeps the arguments after `--` for another program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["further"] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command(
    cls=_PassingOn, options_metavar="[OPTIONS]", epilog="Arguments after -- go to Snakemake."
)
@click.argument("slides", nargs=-1, required=True)
@click.argument("out", type=NEW_FOLDER)
@click.option("--config", type=FILE, help="YAML file with settings; see docs/workflow.md.")
@click.option("--cores", type=int, help="Cores of this machine to use.  [default: the profile's]")
@click.option(
    "--profile",
    default="workstation",
    metavar="workstation|slurm|dask|DIR",
    help="Profile that decides on which machines the jobs run.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Run failed slides again, even if nothing changed."
)
@recursive_option
@images_option
def workflow(slides: tuple[str, ...], out: Path, **options: Any) -> None:
    """Process many slides, from quality control to reports.

    SLIDES are files, folders, globs or slide sheets; OUT gets the results.

    Snakemake runs one job per slide and stage. Run the same command again to resume; finished
    jobs are not repeated. Failed slides are listed at the end, and the exit code is then 1.
    """
    from wsi_pipeline.batch.snakemake import run_workflow

    ctx = click.get_current_context()
    if options["cores"] is not None and options["cores"] < 1:
        raise UsageError(f"--cores must be at least 1, got {options['cores']}")
    result = run_workflow(slides, out, further=ctx.meta["further"], **options)
    for name, cause in result.verdict.failed.items():
        print_error(f"{name}: {cause}")
    click.echo(result.text(out))
    if result.exit_code or result.verdict.failed:
        ctx.exit(FAILED)
