"""Read the recipe of a paper: its published rows, and how each is trained and measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from wsi_pipeline.core.errors import DataError, UsageError, one_line

__all__ = ["PAPERS", "Budget", "Recipe", "Row", "choose_rows", "is_percent", "read_recipe"]

Budget = Literal["published", "small", "fast"]
"""How much a row may cost: as published; small networks and few steps, for a CPU; a check."""

PAPERS = ("dssnet", "unet", "imbmdcr", "donet", "detectors")
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Row:
    """A published row, or a stage of training that rows share.

    Attributes
    ----------
    model
        a name of `wsiseg_models.registry.MODELS`; empty in a row that only measures speed
    data
        sets to train on, by their names in the recipe, at will with a weight: ``cells=5``
    partial
        a set of which only some objects are marked, for detectors; empty: none
    split
        images that are held out; see `wsiseg_models.training.coco.Split`
    after
        the stage whose weights it starts from, trained on the same split; empty: none
    published
        measure → what the paper has, in percent where the measure has a percent sign; None: nothing
    train
        options of `wsiseg train`, named as in its YAML file
    weights
        ``file`` of weights that the published network started from, and the options that go with
        it (``train``)
    evaluate
        further arguments of `evaluate_run`
    speed
        what is timed: name → `speed.Timed`
    note
        how the row differs from the published one
    skip
        why the row is not run; empty: it is
    """

    name: str
    title: str = ""
    model: str = ""
    data: tuple[str, ...] = ()
    partial: str = ""
    split: str = "fold:0/5"
    after: str = ""
    published: Mapping[str, float | None] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    speed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str = ""
    skip: str = ""

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets; the first is measured, on its held-out images."""
        given = (*self.data, self.partial) if self.partial else self.data
        return tuple(name.partition("=")[0] for name in given)


@dataclass(frozen=True)
class Recipe:
    """The published rows of a paper.

    Attributes
    ----------
    measures
        measure → its place in the result of a row, parts with `` / `` between them; ``*`` is the
        mean over all entries
    data
        name → ``path`` below the data folder, or ``generated`` with the arguments of
        `wsi_pipeline.synthetic.fields.write_fields`; ``text`` names the set in the table
    """

    paper: str
    title: str
    budget: Budget
    measures: Mapping[str, str]
    data: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, Row]
    rows: tuple[Row, ...]


def is_percent(place: str) -> bool:
    """Return whether the value at a place of a result is a share, which is shown in percent."""
    return place.partition(" / ")[0] in ("scores", "pixels", "overlap", "classes")


def read_recipe(paper: str, budget: Budget = "published", folder: Path | None = None) -> Recipe:
    """Read ``<paper>.yaml`` and merge the options that its rows share with those of `budget`.

    Parameters
    ----------
    folder
        folder of recipes; None: those that ship

    Raises
    ------
    UsageError
        PyYAML is missing, or there is no such recipe
    DataError
        the file is no recipe; the message names it and the part that is wrong
    """
    path = (folder or RECIPES) / f"{paper}.yaml"
    try:
        import yaml
    except ModuleNotFoundError:
        raise UsageError(
            "recipes are read with PyYAML, which is not installed; pip install -e '.[train]'"
        ) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; known papers: {', '.join(PAPERS)}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML ({one_line(error)})") from error
    try:
        return _recipe(paper, budget, content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no recipe: {one_line(error)}") from error


def _recipe(paper: str, budget: Budget, content: Mapping[str, Any]) -> Recipe:
    shared = content.get("all", {})
    stages = {
        name: _row(name, own, shared, budget) for name, own in content.get("stages", {}).items()
    }
    recipe = Recipe(
        paper, content["title"], budget, content["measures"], content["data"], stages,
        tuple(_row(name, own, shared, budget) for name, own in content["rows"].items()),
    )  # fmt: skip
    for row in (*recipe.rows, *stages.values()):
        _check(row, recipe)
    return recipe


def _row(name: str, own: Mapping[str, Any], shared: Mapping[str, Any], budget: Budget) -> Row:
    """Make a row of what all rows have and what it has itself, for one budget."""
    known = {f.name for f in fields(Row)} - {"name"}
    unknown = set(own) - known - set(get_args(Budget))
    if unknown:
        raise ValueError(f"row {name}: unknown {', '.join(sorted(unknown))}")
    # The options of the budget win over those of the row, its own over those of all rows.
    parts = (shared, own, shared.get(budget, {}), own.get(budget, {}))
    values = {k: v for part in parts for k, v in part.items() if k in known}
    train = {k: v for part in parts for k, v in part.get("train", {}).items()}
    values["train"] = {k: v for k, v in train.items() if v is not None}
    data = values.get("data", ())
    values["data"] = (data,) if isinstance(data, str) else tuple(data)
    return Row(name=name, **values)


def _check(row: Row, recipe: Recipe) -> None:
    """Raise a ValueError for names that the recipe does not have."""
    wanted = {
        "data": list(row.sets),
        "stages": [row.after] if row.after else [],
        "measures": list(row.published) if not row.speed else [],
    }
    for part, names in wanted.items():
        known = getattr(recipe, part)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"row {row.name}: {unknown[0]!r} is not in {part}")
    if not row.speed and not (row.model and row.sets):
        raise ValueError(f"row {row.name}: give model and data, or speed")


def choose_rows(recipe: Recipe, patterns: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows whose names match one of the patterns; all without a pattern.

    Raises
    ------
    UsageError
        a pattern matches no row
    """
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in recipe.rows):
            known = ", ".join(row.name for row in recipe.rows)
            raise UsageError(f"no row {pattern!r} in {recipe.paper}; known: {known}")
    return tuple(
        row
        for row in recipe.rows
        if not patterns or any(fnmatchcase(row.name, p) for p in patterns)
    )
