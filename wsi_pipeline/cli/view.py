"""`wsiseg view`: look at slides and results in the browser, and correct them."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import click

from wsi_pipeline.cli.options import FILE, NEW_FILE, mpp_option, quiet_option
from wsi_pipeline.core.errors import UsageError

__all__ = ["view"]


@click.command()
@click.argument("source", metavar="SLIDE|FOLDER", type=FILE)
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=FILE)
@click.option(
    "--corrections",
    type=NEW_FILE,
    metavar="FILE.geojson",
    help="Save corrections to this file.  [default: corrections.geojson in the run folder]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0,
    help="Port on this computer; 0: a free one.",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address only; open no browser.")
@mpp_option
@quiet_option
def view(
    source: Path, runs: tuple[Path, ...], corrections: Path | None, port: int, no_browser: bool,
    mpp: float | None, quiet: bool,
) -> None:  # fmt: skip
    """Show a slide and its objects in the browser, and correct them.

    SLIDE is a slide file, FOLDER a folder with slides and runs, to choose from. RUN is a run folder
    or a folder of runs; without it, out/<slide> in the current folder is used where it exists. The
    page is served to this computer alone, until Ctrl-C. Research use; not a medical device.
    """
    from wsi_pipeline.viewer.library import Library, match_runs
    from wsi_pipeline.viewer.server import ViewerServer

    slides, folders = _found(source, runs)
    library = Library(match_runs(slides, folders), corrections=corrections, mpp=mpp)
    with ViewerServer(library, port) as server:
        click.echo(server.access.address)
        if not quiet:
            click.echo("The page is open to this computer only. Press Ctrl-C to end.", err=True)
        threading.Thread(target=library.read_ahead, daemon=True).start()
        if not no_browser:
            address = f"{server.access.origin}/#code={server.access.new_code()}"
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            if not quiet:
                click.echo("\nended", err=True)
        finally:
            library.close()


def _found(source: Path, runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the slides and the run folders that the arguments name."""
    from wsi_pipeline.batch.slide_folder import is_slide, slides_in
    from wsi_pipeline.core.run_layout import find_runs
    from wsi_pipeline.core.safe_names import slide_id_of

    for path in (source, *runs):
        if not path.exists():
            raise UsageError(f"{path} does not exist; check the path")
    folders = [folder for run in runs for folder in find_runs(run)]
    if runs and not folders:
        raise UsageError(f"{runs[0]} holds no finished run; give a folder that `wsiseg run` wrote")
    if source.is_dir() and not is_slide(source):
        folders = list(dict.fromkeys([*find_runs(source), *folders]))
        inside = any(folder.parent.parent == source or folder == source for folder in folders)
        slides = slides_in(source, recursive=not inside).slides
        slides = slides if slides or folders else slides_in(source, images=True).slides
        if not slides and not folders:
            raise UsageError(f"{source} holds no slide and no run; give a slide file")
        return slides, folders
    usual = Path("out") / slide_id_of(source)
    if not runs and usual.is_dir():
        folders = find_runs(usual)
    return [source], folders
