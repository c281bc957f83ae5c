"""`wsiseg train`: train a model. Each model is a command with the options of its own settings."""

from __future__ import annotations

import click

__all__ = ["train"]

KINDS = "nucleus_kinds"
"""The network that sorts nuclei: no model of objects, but trained like one."""


class _Models(click.Group):
    """One command per model, made when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from wsiseg_models.registry import MODELS

        return [*MODELS, KINDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        if name == KINDS:
            from wsi_pipeline.cli.train_kinds import train_kinds

            return train_kinds
        from wsi_pipeline.cli.train_options import model_command

        return model_command(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = sorted(self.list_commands(ctx))
        if args and args[0] not in known:
            raise click.UsageError(f"Unknown model {args[0]!r}; known: {', '.join(known)}.", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Models,
    invoke_without_command=True,
    subcommand_metavar="MODEL [OPTIONS]...",
    options_metavar="",
)
@click.pass_context
def train(ctx: click.Context) -> None:
    """Train MODEL on COCO sets. Run the same command again to resume.

    Each model has its own options and defaults: `wsiseg train MODEL --help` shows them.
    """
    if ctx.invoked_subcommand is None:
        known = ", ".join(sorted(train.list_commands(ctx)))
        raise click.UsageError(f"Missing MODEL; known: {known}.", ctx)
