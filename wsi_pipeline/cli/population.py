"""`wsiseg population`: plot two measurements of a run, and write the objects inside a gate."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.options import FILE, NewPath, quiet_option
from wsi_pipeline.core.errors import UsageError

__all__ = ["population"]


@click.command()
@click.argument("run", type=FILE)
@click.option("--x", metavar="MEASUREMENT", help="By its words.  [default: nucleus area]")
@click.option("--y", metavar="MEASUREMENT", help="By its words.  [default: N/C]")
@click.option(
    "--gate",
    metavar="x0,y0,x1,y1|JSON",
    help='Two corners, or a file {"x": name, "y": name, "polygon": [[x, y], …]}.',
)
@click.option(
    "--out",
    "outs",
    type=NewPath(".svg", ".png", ".geojson", ".json", ".geojson.gz", ".json.gz"),
    multiple=True,
    help="Plot (.svg or .png); objects inside the gate (.geojson), or a folder for their "
    "pictures. Repeatable.",
)
@click.option("--image", type=FILE, metavar="SLIDE", help="Slide file, for pictures.")
@click.option("--count", type=click.IntRange(1, 2000), default=40, help="Most pictures.")
@quiet_option
def population(
    run: Path,
    x: str | None,
    y: str | None,
    gate: str | None,
    outs: tuple[Path, ...],
    image: Path | None,
    count: int,
    quiet: bool,
) -> None:
    """Plot two measurements; write the objects inside a gate.

    Where one measurement belongs to cells and the other to nuclei, the objects are cells, each with
    the value of its largest nucleus.
    """
    from contextlib import nullcontext

    from wsi_pipeline.core.run_layout import one_run, read_run
    from wsi_pipeline.reports.population import parse_gate
    from wsi_pipeline.reports.population_files import PLOTS, gate_run, write_gated, write_plot
    from wsi_pipeline.runs.slide_of_run import slide_of_run

    if quiet and not outs:
        raise UsageError("--quiet without --out gives no result; add --out FILE")
    folder = one_run(run)
    gated = gate_run(folder, x, y, None if gate is None else parse_gate(gate))
    opened = None if image is None else slide_of_run(folder, read_run(folder), image)
    with opened or nullcontext() as slide:
        for out in outs:
            if out.suffix.lower() in PLOTS:
                write_plot(gated, out)
            else:
                write_gated(gated, out, slide, count)
    if not quiet:
        names, total = gated.population.names, len(gated.population.rows)
        click.echo(f"{names[1]} against {names[0]}: {total} objects")
        if gated.inside is not None:
            share = len(gated.inside) / total if total else 0.0
            click.echo(f"inside the gate: {len(gated.inside)} ({share:.1%})")
