"""`wsiseg models`: the built-in models and their cards."""

from __future__ import annotations

import click

from wsi_pipeline.cli.options import json_option
from wsi_pipeline.cli.output import as_json as to_json
from wsi_pipeline.cli.output import table

__all__ = ["models"]


@click.command()
@click.argument("name", required=False)
@json_option
def models(name: str | None, as_json: bool) -> None:
    """List the models, or print the card of NAME."""
    from wsi_pipeline.cli.describe import card_rows, describe_model, model_rows

    if name is not None:
        click.echo(to_json(describe_model(name)))
        return
    rows = model_rows()
    click.echo(to_json(rows) if as_json else table(card_rows(rows)))
