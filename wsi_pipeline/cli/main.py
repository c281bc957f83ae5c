"""The command line: options and text; what is heavy is imported when a command runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wsi_pipeline.cli.signals import STOPPED, stop_on_signals
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import OutputError, SlideError, UsageError, WsisegError
from wsi_pipeline.formats.convert import FORMATS

if TYPE_CHECKING:
    from wsi_pipeline.batch.run_many import Outcome

__all__ = ["cli", "main"]

FAILED, USAGE = 1, 2
_RUN = {field.name: field.default for field in fields(RunConfig)}


class _Group(click.Group):
    """Turns every error that is meant for people into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "wsiseg"
            _complain(f"{error.format_message()} See `{where} --help`.")
            ctx.exit(USAGE)
        except WsisegError as error:
            _complain(str(error))
            ctx.exit(FAILED if isinstance(error, SlideError | OutputError) else USAGE)
        except KeyboardInterrupt:
            _complain("stopped; the same command continues")
            ctx.exit(STOPPED)


def _complain(text: str) -> None:
    click.echo(f"wsiseg: {' '.join(text.split())}", err=True)


def main() -> None:
    """The console script."""
    notes = logging.StreamHandler()
    notes.setFormatter(logging.Formatter("wsiseg: %(message)s"))
    logging.getLogger("wsi_pipeline").addHandler(notes)
    try:
        cli(prog_name="wsiseg")
    except SystemExit as end:
        if end.code == STOPPED:
            # Threads may still wait for a network that has gone; all files are whole at any time.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(STOPPED)
        raise


@click.group("wsiseg", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wsiseg", message="wsiseg %(version)s")
def cli() -> None:
    """Every nucleus of whole-slide cervical cytology, as objects that open in QuPath.

    Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 stopped.
    """


_FILE = click.Path(path_type=Path)
_mpp = click.option("--mpp", type=float, help="µm per pixel, instead of what the file says.")
_crop = click.option(
    "--crop/--no-crop", default=True, show_default=True,
    help="Take only the scanned area that the file declares, as QuPath does.",
)  # fmt: skip
_quiet = click.option("--quiet", is_flag=True, help="Show nothing but errors.")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N",
    help="Where the network runs.",
)  # fmt: skip


def _run_option(*names: str, **options: Any) -> Callable[[Any], Any]:
    """An option of `RunConfig`, with its default."""
    default = _RUN[names[0].removeprefix("--").split("/")[0].replace("-", "_")]
    return click.option(*names, default=default, show_default=default is not None, **options)


@cli.command()
@click.argument("slides", nargs=-1, required=True)
@_run_option("--model", metavar="NAME", help="See `wsiseg models`.")
@_run_option("--checkpoint", type=_FILE, help="Weights of your own; they decide the model.")
@_run_option("--out", type=_FILE, help="Gets one folder per slide.")
@_device
@_run_option(
    "--precision",
    type=click.Choice(("auto", "float32", "bfloat16")),
    help="Of the network; auto: bfloat16 where it is in hardware and costs no accuracy.",
)
@_mpp
@_run_option("--foreground", type=click.Choice(("auto", "all")), help="Where to look.")
@_run_option("--roi", type=_FILE, help="GeoJSON annotations; only what lies in them is kept.")
@_run_option("--tile-px", type=int, help="Tile of the network.  [default: the model's]")
@_run_option("--batch", type=int, help="Tiles per call of the network.")
@_run_option("--workers", type=int, help="Regions worked on at a time.")
@_run_option(
    "--scheduler",
    metavar="ADDRESS",
    help="Of a Dask cluster that does the regions: tcp://host:8786, or a scheduler file.",
)
@_run_option("--read-timeout-s", type=float, help="After which a drive counts as gone.")
@_run_option("--threshold", type=float, help="Probability from which a pixel is a nucleus's.")
@_run_option("--min-area-um2", type=float, help="Smaller objects are debris, µm².")
@_run_option("--min-score", type=float, help="Objects of a lower mean probability are left out.")
@_run_option("--min-small-score", type=float, help="The same for objects under 30 µm².")
@_run_option("--split/--no-split", help="Part touching nuclei.")
@_crop
@click.option("--overwrite", is_flag=True, help="Start again where results lie.")
@click.option("--recursive", is_flag=True, help="Look into folders of folders.")
@click.option("--mpp-of-sheet", is_flag=True, hidden=True)  # what the workflow took from one
@_quiet
def run(slides: tuple[str, ...], recursive: bool, mpp_of_sheet: bool, **settings: Any) -> None:
    """Segment SLIDES: files, folders, globs, or a CSV with columns slide and mpp.

    Each slide gets a folder with objects.geojson.gz for QuPath, objects.parquet, pictures and
    run.json. The same command continues what was stopped.
    """
    from wsi_pipeline.batch.run_many import run_slides
    from wsi_pipeline.batch.slide_sheet import find_slides

    config = RunConfig(**settings)
    found = find_slides(slides, recursive=recursive)
    if mpp_of_sheet:
        found = [replace(slide, mpp=config.mpp) for slide in found]
        config = replace(config, mpp=None)
    with stop_on_signals(quiet=config.quiet) as stop:
        outcomes = run_slides(found, config, stop)
    if not config.quiet:
        _summarise(outcomes)
    if any(outcome.failed for outcome in outcomes):
        click.get_current_context().exit(FAILED)


def _summarise(outcomes: Sequence[Outcome]) -> None:
    """One line per slide; a single failed slide has already been told of."""
    from wsi_pipeline.cli.describe import table

    rows = []
    for one in outcomes:
        if one.result is not None:
            count = f"{one.result.objects} objects"
            rows.append([one.name, count, f"{one.seconds:.1f} s", str(one.result.folder)])
    if rows:
        click.echo(table(rows))
    if len(outcomes) > 1:
        for one in outcomes:
            if one.failed:
                click.echo(f"{one.name}  failed: {one.cause}")


@cli.command()
@click.argument("slide", type=_FILE)
@_mpp
@_crop
@_run_option("--model", metavar="NAME", help="Model to plan a run for.")
@click.option("--plan/--no-plan", default=True, show_default=True,
              help="Say how a run would cut it up, which opens the model.")  # fmt: skip
@_json
def info(slide: Path, mpp: float | None, crop: bool, model: str, plan: bool, as_json: bool) -> None:
    """What is known about SLIDE, and how a run would cut it up."""
    from wsi_pipeline.cli import describe

    about = describe.describe_slide(slide, mpp=mpp, crop=crop, model=model if plan else None)
    click.echo(describe.as_json(about) if as_json else describe.table(describe.slide_rows(about)))


@cli.command()
@click.argument("name", required=False)
@_json
def models(name: str | None, as_json: bool) -> None:
    """List the models, or show the whole card of NAME."""
    from wsi_pipeline.cli import describe

    if name is not None:
        click.echo(describe.as_json(describe.describe_model(name)))
        return
    rows = describe.model_rows()
    click.echo(describe.as_json(rows) if as_json else describe.table(describe.card_rows(rows)))


@cli.command()
@click.argument("model")
@click.option("--data", multiple=True, required=True, metavar="DIR[@MPP][=WEIGHT]",
              help="COCO folder, its µm per pixel, how often it is drawn.")  # fmt: skip
@click.option("--out", type=_FILE, required=True, help="Folder of the run; it resumes there.")
@click.option("--mpp", type=float, default=0.5, show_default=True, help="µm per pixel to learn.")
@click.option("--split", default="fold:0/5", show_default=True, help="fold:K/N, time:SHARE, none.")
@click.option("--crop-px", type=int, default=256, show_default=True)
@click.option("--batch", type=int, default=8, show_default=True)
@click.option("--steps", type=int, default=4000, show_default=True)
@click.option("--lr", type=float, default=1e-3, show_default=True)
@click.option("--optimizer", type=click.Choice(("adam", "adamw", "sgd")), default="adam",
              show_default=True)  # fmt: skip
@click.option("--weight-decay", type=float, default=5e-4, show_default=True)
@click.option(
    "--ema", type=float, default=0.998, show_default=True, help="Mean of weights; 0: off."
)
@click.option("--hard-weight", type=float, default=1, show_default=True,
              help="How much more a pixel counts that is still wrong.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@_device
@click.option("--workers", type=int, default=1, show_default=True,
              help="Processes that make batches.")  # fmt: skip
@click.option("--amp/--no-amp", default=True, show_default=True, help="Compute in bfloat16.")
@click.option("--save-every", type=int, default=250, show_default=True, help="Steps.")
@click.option("--max-minutes", type=float, default=float("inf"), help="Stop after so long.")
@click.option("--class", "--classes", "classes", multiple=True, help="Object class. Repeatable.")
@click.option("--category", "categories", multiple=True,
              help="COCO category of each class, in their order. Repeatable.")  # fmt: skip
@click.option("--option", "further", multiple=True, metavar="NAME=VALUE",
              help="Of the network, VALUE as JSON. Repeatable.")  # fmt: skip
@click.option("--light", is_flag=True, default=None,
              help="The small network that ships; --option changes it further.")  # fmt: skip
@click.option("--width", type=int, help="Of the network.")
@click.option("--depth", type=int, help="Of the network.")
@click.option("--block", help="Of the network.")
@click.option("--sr-head/--no-sr-head", default=None, help="Train with super-resolution.")
@click.option("--edge-head/--no-edge-head", default=None, help="Train with edges.")
@click.option("--licence", default="", help="Of the weights.")
@click.option(
    "--initial", type=_FILE, help="state.pt of another run or a checkpoint, to start from."
)
@click.option("--zoom", type=float, default=1.3, show_default=True, help="Largest random zoom.")
@click.option("--stain", type=float, default=1.0, show_default=True,
              help="Strength of random changes of stain; 0: none.")  # fmt: skip
@click.option("--grey", type=float, default=0.15, show_default=True, help="Share seen in grey.")
@click.option("--pretrain", type=click.Choice(("none", "dense")),
              help="dense: trunk and pyramid alone, on maps.")  # fmt: skip
@click.option("--pretrained", type=_FILE, help="Weights of torchvision, a local file.")
@click.option("--pretrained-as", type=click.Choice(("detector", "backbone")), help="What it is of.")
@click.option("--freeze", type=int, help="Stages of the trunk that stay as they are.")
@click.option("--normalise", type=click.Choice(("fixed", "dataset")), help="Of the images.")
@click.option("--scale", "scales", type=float, multiple=True,
              help="Size of crop and content, one drawn per step. Repeatable.")  # fmt: skip
@click.option("--momentum", type=float, help="Of sgd.")
@click.option("--clip", type=float, help="Largest norm of the gradient; 0: off.")
@click.option("--warmup-steps", type=int, help="Steps until --lr is reached.")
@click.option("--warmup-factor", type=float, help="Share of --lr at the start.")
@click.option("--schedule", type=click.Choice(("cosine", "steps")), help="How --lr falls.")
@click.option("--milestone", "milestones", type=int, multiple=True,
              help="Step after which --lr is a tenth. Repeatable.")  # fmt: skip
@click.option("--cluster-chance", type=float, help="Share of crops with cells laid over others.")
@click.option("--cluster-overlap", type=(float, float), metavar="LOW HIGH",
              help="Of the smaller of two cells.")  # fmt: skip
@click.option("--cluster-alpha", type=(float, float), metavar="LOW HIGH",
              help="Density of a cell laid over others; 1: as it was.")  # fmt: skip
@_quiet
def train(model: str, device: str, quiet: bool, **settings: Any) -> None:
    """Train MODEL; the same command continues what was stopped.

    Options that only some models have are refused for the others. Defaults shown are dssnet's.
    """
    from wsi_pipeline.cli.train_options import train_model

    ctx = click.get_current_context()
    given = {
        name: value
        for name, value in settings.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    path = train_model(model, given, device=device, quiet=quiet)
    if not quiet:
        click.echo(f"{path}  (log: {path.with_name('log.jsonl')})")


@cli.command()
@click.argument("source", type=_FILE)
@click.argument("destination", type=_FILE)
@click.option(
    "--format", type=click.Choice(tuple(FORMATS)), help="[default: from DESTINATION's name]"
)
@click.option("--object-type", type=click.Choice(("detection", "annotation", "cell", "tile")),
              default="detection", show_default=True, help="QuPath's, for GeoJSON.")  # fmt: skip
@click.option("--scale", type=float, default=1.0, show_default=True,
              help="Level-0 pixels per pixel of a label image.")  # fmt: skip
def export(source: Path, destination: Path, format: str | None, **options: Any) -> None:
    """Write the objects of SOURCE, a run folder or a file of objects, as DESTINATION."""
    from wsi_pipeline.cli.commands import export_objects

    taken = export_objects(source, destination, format, **options)
    click.echo(f"{destination} ({taken})")


@cli.command()
@click.argument("folder", metavar="RUN_FOLDER", type=_FILE)
@click.option("--out", type=_FILE, help="Folder for the files.  [default: RUN_FOLDER]")
@click.option("--qc", type=_FILE, help="What `wsiseg info --json` said; brings the focus score.")
@click.option("--preparation", type=click.Choice(("liquid", "conventional")), default="liquid",
              show_default=True, help="How many cells are enough: 5000 or 8000.")  # fmt: skip
@_quiet
def features(
    folder: Path, out: Path | None, qc: Path | None, preparation: str, quiet: bool
) -> None:
    """Write tables of a run: SLIDE.objects.csv.gz, one row per object, and SLIDE.summary.json."""
    from wsi_pipeline.reports.slide_summary import write_features

    files = write_features(folder, out, qc=qc, preparation=preparation)
    if not quiet:
        click.echo("\n".join(map(str, files)))


@cli.command()
@click.argument("folder", metavar="RUN_FOLDER", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="The HTML file.")
@click.option("--summary", type=_FILE, help="Row of `wsiseg features`, which may know the focus.")
@_quiet
def report(folder: Path, out: Path, summary: Path | None, quiet: bool) -> None:
    """Write one self-contained HTML page about a run: picture, numbers, distributions, origin."""
    from wsi_pipeline.reports.slide_report import write_report

    write_report(folder, out, summary=summary)
    if not quiet:
        click.echo(out)


@cli.command()
@click.argument("out", type=_FILE)
@click.argument("sources", metavar="[SUMMARIES|RUN_FOLDERS]...", nargs=-1, type=_FILE)
@_quiet
def cohort(out: Path, sources: tuple[Path, ...], quiet: bool) -> None:
    """Write cohort.parquet, cohort.csv and cohort.html into OUT, one row per slide.

    Sources are run folders, files of `wsiseg features`, JSON files {"slide", "status": "failed",
    "cause"}, or folders of these; without any, OUT itself.
    """
    from wsi_pipeline.reports.cohort import write_cohort

    rows = write_cohort(out, sources)
    if not quiet:
        failed = sum(row["status"] == "failed" for row in rows)
        slides = f"{len(rows)} slide{'s' * (len(rows) != 1)}"
        click.echo(f"{out / 'cohort.parquet'}: {slides}, {failed} failed")


def _mpp_range(ctx: Any, param: Any, text: str) -> float | tuple[float, float]:
    """A pixel size, or two with a hyphen between them."""
    try:
        low, *rest = (float(part) for part in text.split("-"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no pixel size; try 0.25, or 0.2-0.5") from None
    return (low, rest[-1]) if rest else low


@cli.command()
@click.argument("destination", type=_FILE)
@click.option("--size", type=int, help="Pixels a side.  [default: 4096; of fields 512]")
@click.option("--width", type=int, help="Pixels, instead of --size.")
@click.option("--height", type=int, help="Pixels, instead of --size.")
@click.option("--mpp", callback=_mpp_range, default="0.25", show_default=True,
              help="µm per pixel; LOW-HIGH with --fields.")  # fmt: skip
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed, the same slide."
)
@click.option("--tissue", type=float, default=0.35, show_default=True, help="Share under cells.")
@click.option("--max-overlap", type=float,
              help="Largest share of a cell under a larger one.  [default: a mixture]")  # fmt: skip
@click.option("--fields", type=int, help="Write so many training fields into DESTINATION instead.")
@_quiet
def synth(
    destination: Path, size: int | None, width: int | None, height: int | None,
    mpp: float | tuple[float, float], seed: int, tissue: float, max_overlap: float | None,
    fields: int | None, quiet: bool,
) -> None:  # fmt: skip
    """Make a synthetic slide NAME.svs with its exact truth, or fields to train on."""
    from wsi_pipeline.cli import commands

    if fields is not None:
        if width or height:
            raise UsageError("fields are square; give --size instead of --width and --height")
        if max_overlap is not None:
            raise UsageError("--max-overlap is for slides; fields vary in how crowded they are")
        commands.synth_fields(destination, count=fields, size_px=size or 512, mpp=mpp, seed=seed)
        files = [destination]
    elif isinstance(mpp, tuple):
        raise UsageError(f"a slide has one pixel size, not {mpp[0]:g} to {mpp[1]:g}; give one")
    else:
        side = size or 4096
        files = commands.synth_slide(
            destination, width=width or side, height=height or side, mpp=mpp, seed=seed,
            tissue=tissue, max_overlap=max_overlap, quiet=quiet,
        )  # fmt: skip
    if not quiet:
        click.echo("\n".join(str(file) for file in files))


class _Passing(click.Command):
    """Keeps what stands behind `--` for another program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["further"] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@cli.command(
    cls=_Passing, options_metavar="[OPTIONS]", epilog="What stands behind -- is for Snakemake."
)
@click.argument("slides", nargs=-1, required=True)
@click.argument("out", type=_FILE)
@click.option("--config", type=_FILE, help="YAML with settings; see docs/workflow.md.")
@click.option("--cores", type=int, help="Of this machine.  [default: the profile's]")
@click.option("--profile", default="workstation", show_default=True,
              metavar="workstation|slurm|dask|DIR", help="Where jobs run.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Try again what failed, unchanged though it is.")
@click.option("--recursive", is_flag=True, help="Look into folders of folders.")
def workflow(slides: tuple[str, ...], out: Path, **options: Any) -> None:
    """Take SLIDES (files, folders, globs, sheets) from QC to the cohort's table, into OUT.

    Snakemake runs one job per slide and stage. The same command continues what was stopped, and
    does nothing twice; slides that failed are named at the end, with exit code 1.
    """
    from wsi_pipeline.batch.snakemake import run_workflow

    ctx = click.get_current_context()
    code, verdict = run_workflow(slides, out, further=ctx.meta["further"], **options)
    for name, cause in verdict.failed.items():
        _complain(f"{name}: {cause}")
    if verdict.unknown:  # a dry run, or Snakemake has said why not
        click.echo(f"{len(verdict.unknown)} slides are not finished", err=True)
    click.echo(f"{verdict.done} done, {len(verdict.failed)} failed; tables and reports: {out}")
    if code or verdict.failed:
        ctx.exit(FAILED)


@cli.command()
@click.argument("source", type=_FILE)
@click.argument("truth", type=_FILE)
@click.option("--iou", type=float, default=0.5, show_default=True, help="From which two match.")
@click.option("--class", "class_name", help="Compare objects of this class only.")
@click.option("--cells", type=_FILE,
              help="True cells to compare too, with nuclei where links are known.")  # fmt: skip
@_json
def score(source: Path, truth: Path, as_json: bool, **options: Any) -> None:
    """Compare the objects of SOURCE, a run folder or a file of objects, with TRUTH."""
    from wsi_pipeline.cli import describe
    from wsi_pipeline.cli.commands import score_run

    result = score_run(source, truth, **options)
    rows = [[name, "–" if value is None else str(value)] for name, value in result.items()]
    click.echo(describe.as_json(result) if as_json else describe.table(rows))


@cli.command()
@_run_option("--model", metavar="NAME", help="See `wsiseg models`.")
@_run_option("--checkpoint", type=_FILE, help="Weights of your own; they decide the model.")
@click.option("--data", multiple=True, required=True, metavar="DIR[@MPP]",
              help="COCO folder with truth, and its µm per pixel. Repeatable.")  # fmt: skip
@click.option("--split", default="all", show_default=True,
              help="all, or fold:K/N or time:SHARE for what training held out.")  # fmt: skip
@click.option("--score", type=float, default=0.05, show_default=True,
              help="What is found with less counts nowhere.")  # fmt: skip
@click.option("--cut", type=float, default=0.5, show_default=True,
              help="Score from which it counts in everything but AP.")  # fmt: skip
@click.option("--max-dets", type=int, default=100, show_default=True,
              help="Objects of an image that AP counts, best first; 0: all.")  # fmt: skip
@click.option("--out", type=_FILE, help="Folder for results.json and results.csv.")
@_device
@_json
@_quiet
def evaluate(as_json: bool, quiet: bool, **settings: Any) -> None:
    """Compare what a model finds in images with their truth: AP, AJI, F1, Dice, PQ and more.

    Images and truth are brought to the model's µm per pixel; areas are in its pixels.
    """
    from wsi_pipeline.cli import describe
    from wsi_pipeline.cli.commands import evaluate_run

    result = evaluate_run(**settings, quiet=quiet or as_json)
    if as_json:
        click.echo(describe.as_json(result))
    elif not quiet:
        from wsi_pipeline.evaluation.coco_evaluation import score_rows

        click.echo(
            f"{result['model']} at {result['mpp']:g} µm per pixel; AP from score "
            f"{result['score']:g}, the rest from {result['cut']:g}"
        )
        click.echo(describe.table(score_rows(result["scores"])))


def _gigapixels(ctx: Any, param: Any, text: str) -> tuple[float, ...]:
    """Sizes with commas between them."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} are no gigapixels; try 0.1,1, after OUT") from None


@cli.command()
@click.argument("out", type=_FILE)
@click.option("--size", type=int,
              help="Pixels a side of the slide.  [default: 10000; with a GPU 40000]")  # fmt: skip
@_run_option("--model", metavar="NAME", help="See `wsiseg models`.")
@_run_option("--checkpoint", type=_FILE, help="Weights of your own; they decide the model.")
@_device
@click.option("--paper", is_flag=True, help="Also DSSNet against U-Net, as published.")
@click.option("--tiles", type=int,
              help="How many of --paper's 29600.  [default: all; without a GPU 64]")  # fmt: skip
@click.option("--sizes", is_flag=False, flag_value="0.1,0.3,1,3,10", default="", metavar="[LIST]",
              callback=_gigapixels,
              help="Also slides of 0.1,0.3,1,3,10 gigapixels, or of those listed.")  # fmt: skip
@click.option("--threshold-model/--no-threshold-model", default=None,
              help="A threshold instead of the network.  [default: only for --sizes]")  # fmt: skip
@_quiet
def benchmark(out: Path, **settings: Any) -> None:
    """Measure this machine on a generated slide: each stage alone, and whole runs.

    OUT gets benchmark.md, benchmark.json and, with matplotlib, benchmark.png.
    """
    from wsi_pipeline.benchmark.run import BenchmarkConfig
    from wsi_pipeline.benchmark.run import benchmark as measure

    config = BenchmarkConfig(**settings)
    text = measure(out, config)
    if not config.quiet:
        click.echo(text, nl=False)


@cli.command()
def doctor() -> None:
    """Look at what this machine has and lacks."""
    from wsi_pipeline.cli.doctor import examine

    broken = False
    for finding in examine():
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        click.echo(f"{finding.status:<6}  {finding.name:<11}  {finding.value}{remedy}")
        broken |= finding.status == "broken"
    if broken:
        click.get_current_context().exit(FAILED)
