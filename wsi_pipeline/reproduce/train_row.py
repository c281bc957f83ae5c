"""Train a row or a stage of a recipe, or resume its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.files import write_json, write_text
from wsi_pipeline.reproduce.data import NotRun, prepare_set
from wsi_pipeline.reproduce.recipe import Recipe, Row

__all__ = ["Train", "Training", "check_model", "read_result"]

Train = Callable[[str, Sequence[str]], Any]
"""Runs `wsiseg train`: a model and further words of the command line."""


def read_result(folder: Path) -> dict[str, Any]:
    """Return result.json of a row or a stage; ``status`` is done, failed or not run."""
    path = folder / "result.json"
    if not path.is_file():
        return {"status": "not run", "reason": "not asked for yet"}
    return dict(json.loads(path.read_text(encoding="utf-8")))


def check_model(name: str) -> None:
    """Raise `NotRun` where this version has no such model."""
    from wsiseg_models.registry import MODELS

    if name not in MODELS:
        raise NotRun(f"this version has no model {name}")


@dataclass(frozen=True)
class Training:
    """Trains rows and stages, each in a folder of its own.

    Attributes
    ----------
    out, data_root, weights, seed, device
        see `ReproduceConfig`
    """

    recipe: Recipe
    train: Train
    out: Path
    data_root: Path | None
    weights: Path | None
    seed: int
    device: str

    def data(self, name: str) -> tuple[str, str]:
        """Return a set as `wsiseg train` takes it, with its weight, and its name in the table."""
        name, equals, weight = name.partition("=")
        entry = self.recipe.data[name]
        fast = self.recipe.budget == "fast"
        spec, text = prepare_set(name, entry, self.data_root, self.out / "data", fast=fast)
        return f"{spec}{equals}{weight}", text

    def run(self, row: Row, split: str, folder: Path, key: Callable[[Row], str]) -> dict[str, Any]:
        """Train `row` with the images of `split` held out, after the stages that it starts from.

        Parameters
        ----------
        folder
            gets settings.yaml, and ``training`` with checkpoint, state and log
        key
            what the result of a stage depends on; a stage with another one is refused

        Returns
        -------
        dict
            ``steps`` of each stage, ``minutes`` of all, ``seed``, ``started_from``, ``command``

        Raises
        ------
        NotRun
            model or data are not there
        """
        check_model(row.model)
        training = folder / "training"
        settings: dict[str, Any] = {
            **row.train, "split": split, "seed": self.seed, "out": str(training),
            **({"data": [self.data(name)[0] for name in row.data]} if row.data else {}),
            **({"partial_data": [self.data(row.partial)[0]]} if row.partial else {}),
        }  # fmt: skip
        before: Mapping[str, Any] = {"steps": [], "minutes": 0.0}
        if row.after:
            stage = self.recipe.stages[row.after]
            before = self._stage(stage, split, key)
            settings["initial"], start = before["state"], f"stage {row.after}"
        else:
            start = self._start(row, settings)
        path = folder / "settings.yaml"
        write_text(path, _as_yaml(settings))
        words = ["--config", str(path), "--device", self.device]
        self.train(row.model, [*words, "--quiet"])
        log = (training / "log.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(log[-1])
        return {
            "steps": [*before["steps"], last["step"]],
            "minutes": round(before["minutes"] + last["minutes"], 2),
            "seed": self.seed,
            "started_from": start,
            "command": " ".join(["wsiseg train", row.model, *words]),
        }

    def _stage(self, stage: Row, split: str, key: Callable[[Row], str]) -> dict[str, Any]:
        """Train a stage that rows share, unless that is done."""
        folder = self.out / "stages" / stage.name / split_name(split)
        before = read_result(folder)
        if before["status"] == "done":
            if before["key"] == key(stage):
                return before
            raise UsageError(f"{folder} holds a stage of other settings; give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        found = self.run(stage, split, folder, key)
        state = str(folder / "training" / "state.pt")
        result = {**found, "status": "done", "key": key(stage), "state": state}
        write_json(folder / "result.json", result)
        return result

    def _start(self, row: Row, settings: dict[str, Any]) -> str:
        """Set the weights that a row starts from, and name them."""
        if not row.weights:
            return "random weights"
        pattern = row.weights["file"]
        files = sorted(self.weights.glob(pattern)) if self.weights is not None else []
        if not files:
            return f"random weights (published: {pattern})"
        settings |= {**row.weights.get("train", {}), "pretrained": str(files[0])}
        return files[0].name


def split_name(split: str) -> str:
    """Return the folder of a split.

    >>> split_name("fold:0/5")
    'fold-0-of-5'
    """
    return split.replace(":", "-").replace("/", "-of-")


def _as_yaml(settings: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(settings), sort_keys=True, allow_unicode=True))
