"""Run the rows of a recipe, one after the other; a finished row is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.benchmark.machine import describe_machine
from wsi_pipeline.core.errors import UsageError, one_line
from wsi_pipeline.core.files import as_output_error, write_json, write_text
from wsi_pipeline.reproduce.data import NotRun
from wsi_pipeline.reproduce.measure import measure_checkpoint, picked
from wsi_pipeline.reproduce.recipe import Budget, Recipe, Row, choose_rows, read_recipe
from wsi_pipeline.reproduce.table import as_markdown, as_svg, summary
from wsi_pipeline.reproduce.train_row import (
    Train,
    Training,
    check_model,
    read_result,
    split_name,
)

__all__ = ["ReproduceConfig", "reproduce", "splits_of"]

ROUNDS = 5
"""How often speed is measured; the fastest counts."""
FAST_TILE_PX = 128


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Settings of `reproduce`.

    Attributes
    ----------
    out
        folder of the table; trainings and results of rows lie below it
    data_root
        folder of the sets that a recipe names; None: only generated sets are there
    weights
        folder with files of weights to start from; None: there are none
    only
        names or patterns of rows; empty: all
    folds
        number of folds, each held out in turn, of rows that hold out a fold; 0: the fold of the row
    recipes
        folder of recipes; None: those that ship
    """

    paper: str
    out: Path
    data_root: Path | None = None
    weights: Path | None = None
    budget: Budget = "published"
    only: tuple[str, ...] = ()
    folds: int = 0
    seed: int = 0
    device: str = "auto"
    recipes: Path | None = None


def reproduce(
    config: ReproduceConfig, train: Train, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Train and measure the rows of a paper, and write the table after each.

    With several folds all rows are run with the first fold, then all with the second, so that they
    can be compared at any time. A row that fails is recorded, and the others are run.

    Parameters
    ----------
    say
        gets a line before and after each row

    Returns
    -------
    dict
        the table, as it stands in ``table.json`` of `config.out`

    Raises
    ------
    UsageError, DataError, OutputError
        settings or recipe cannot be used, or the folder cannot be written or holds other results
    """
    if config.folds < 0 or config.seed < 0:
        raise UsageError(f"folds {config.folds} and seed {config.seed} must be 0 or more")
    for folder in (config.data_root, config.weights):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is no folder")
    recipe = read_recipe(config.paper, config.budget, config.recipes)
    chosen = choose_rows(recipe, config.only)
    work = _Work(config, recipe, train)
    units = [(row, split) for row in chosen for split in splits_of(row, config.folds)]
    for row, split in units:
        work.check(row, split)
    units.sort(key=lambda unit: splits_of(unit[0], config.folds).index(unit[1]))
    table = _write(work)
    for row, split in units:
        say(f"{row.name}, {split}")
        result = work.run(row, split)
        say(f"{row.name}, {split}: {result['status']} {result.get('reason', '')}".rstrip())
        table = _write(work)
    return table


def splits_of(row: Row, folds: int) -> list[str]:
    """Return the splits with which a row is run.

    >>> splits_of(Row("a", split="fold:0/9"), 3)
    ['fold:0/3', 'fold:1/3', 'fold:2/3']
    >>> splits_of(Row("a", split="time:0.5"), 3)
    ['time:0.5']
    """
    if not folds or not row.split.startswith("fold:") or row.speed:
        return [row.split]
    return [f"fold:{k}/{folds}" for k in range(folds)]


@dataclass(frozen=True)
class _Work:
    """Trains and measures single rows; what is finished is found again in the folder."""

    config: ReproduceConfig
    recipe: Recipe
    train: Train

    def folder(self, row: Row, split: str) -> Path:
        """Return the folder of a row with one split."""
        return self.config.out / "rows" / row.name / split_name(split)

    def check(self, row: Row, split: str) -> None:
        """Raise a UsageError where the folder holds a result of other settings."""
        before, folder = read_result(self.folder(row, split)), self.folder(row, split)
        if before["status"] == "done" and before["key"] != self.key(row, split):
            raise UsageError(
                f"{folder} holds a result of other settings; give another --out, or remove it"
            )

    def run(self, row: Row, split: str) -> dict[str, Any]:
        """Train and measure a row, unless that is done; return and write its result."""
        folder = self.folder(row, split)
        result = read_result(folder)
        if result["status"] == "done":
            return result
        with as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            if row.skip:
                raise NotRun(row.skip)
            found = self._speed(row, folder) if row.speed else self._measured(row, split, folder)
            result = {"status": "done", **found, "device": self._device()}
        except NotRun as error:
            result = {"status": "not run", "reason": one_line(error)}
        except Exception as error:  # recorded; it sets the exit code
            result = {"status": "failed", "reason": f"{type(error).__name__}: {one_line(error)}"}
        result |= {"key": self.key(row, split), "split": "" if row.speed else split}
        write_json(folder / "result.json", result)
        return result

    def key(self, row: Row, split: str) -> str:
        """Return what a result depends on, as a short text."""
        stage = self.recipe.stages.get(row.after)
        known = {
            "row": {
                k: v
                for k, v in asdict(row).items()
                if k not in ("title", "note", "skip", "published")
            },
            "budget": self.recipe.budget,
            "split": split,
            "seed": self.config.seed,
            "sets": [self.recipe.data[name] for name in row.sets],
            "after": self.key(stage, split) if stage else "",
        }
        text = json.dumps(known, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _speed(self, row: Row, folder: Path) -> dict[str, Any]:
        from wsi_pipeline.benchmark.published import TILE_PX
        from wsi_pipeline.reproduce.speed import measure_speed

        fast = self.recipe.budget == "fast"
        side = FAST_TILE_PX if fast else TILE_PX
        values = measure_speed(
            row.speed, folder, device=self.config.device, rounds=1 if fast else ROUNDS, tile_px=side
        )
        return {
            "values": values,
            "data": f"random pixels, {side} × {side}",
        }

    def _measured(self, row: Row, split: str, folder: Path) -> dict[str, Any]:
        config = self.config
        training = Training(
            self.recipe, self.train, config.out, config.data_root, config.weights, config.seed,
            config.device,
        )  # fmt: skip
        check_model(row.model)
        spec, text = training.data(row.sets[0])
        about = training.run(row, split, folder, lambda stage: self.key(stage, split))
        checkpoint = folder / "training" / f"{row.model}.safetensors"
        found = measure_checkpoint(row, checkpoint, spec, split, device=config.device)
        if self.recipe.budget == "fast":  # large, and nothing starts from it
            (folder / "training" / "state.pt").unlink(missing_ok=True)
        places = self.recipe.measures
        values = {name: picked(found, place) for name, place in places.items()}
        return {**about, "values": values, "data": text}

    def _device(self) -> str:
        """Return what computes: the GPU, or the processor and its cores."""
        from wsi_pipeline.segmentation.load_model import device_named

        about, name = describe_machine(), device_named(self.config.device)
        if name.startswith("cuda"):
            return str(about["gpu"])
        return f"{name}, {about['cores']:g} cores of {about['processor']}"


def _write(work: _Work) -> dict[str, Any]:
    """Write the table as JSON, Markdown and picture, and return it."""
    out, folds = work.config.out, work.config.folds
    results = {
        row.name: [read_result(work.folder(row, s)) for s in splits_of(row, folds)]
        for row in work.recipe.rows
    }
    table = summary(work.recipe, results)
    with as_output_error(out):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / "table.json", table)
    write_text(out / "table.md", as_markdown(table))
    write_text(out / "table.svg", as_svg(table))
    return table
