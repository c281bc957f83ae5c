"""`wsiseg train`: train a model."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from wsi_pipeline.cli.options import FILE, device_option, quiet_option

__all__ = ["train"]


@click.command()
@click.argument("model")
@click.option("--data", multiple=True, required=True, metavar="DIR[@MPP][=WEIGHT]",
              help="COCO folder, its µm per pixel, how often it is drawn.")  # fmt: skip
@click.option("--out", type=FILE, required=True, help="Folder of the run; it resumes there.")
@click.option("--mpp", type=float, default=0.5, help="µm per pixel to learn.")
@click.option("--split", default="fold:0/5", help="fold:K/N, time:SHARE, none.")
@click.option("--crop-px", type=int, default=256)
@click.option("--batch", type=int, default=8)
@click.option("--steps", type=int, default=4000)
@click.option("--lr", type=float, default=1e-3)
@click.option("--optimizer", type=click.Choice(("adam", "adamw", "sgd")), default="adam",
              show_default=True)  # fmt: skip
@click.option("--weight-decay", type=float, default=5e-4)
@click.option("--ema", type=float, default=0.998, help="Mean of weights; 0: off.")
@click.option("--hard-weight", type=float, default=1,
              help="How much more a pixel counts that is still wrong.")  # fmt: skip
@click.option("--seed", type=int, default=0)
@device_option
@click.option("--workers", type=int, default=1,
              help="Processes that make batches.")  # fmt: skip
@click.option("--amp/--no-amp", default=True, help="Compute in bfloat16.")
@click.option("--save-every", type=int, default=250, help="Steps.")
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
    "--initial", type=FILE, help="state.pt of another run or a checkpoint, to start from."
)
@click.option("--zoom", type=float, default=1.3, help="Largest random zoom.")
@click.option("--stain", type=float, default=1.0,
              help="Strength of random changes of stain; 0: none.")  # fmt: skip
@click.option("--grey", type=float, default=0.15, help="Share seen in grey.")
@click.option("--pretrain", type=click.Choice(("none", "dense")),
              help="dense: trunk and pyramid alone, on maps.")  # fmt: skip
@click.option("--pretrained", type=FILE, help="Weights of torchvision, a local file.")
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
@quiet_option
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
