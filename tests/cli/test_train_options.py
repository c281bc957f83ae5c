"""Laws of the options of `wsiseg train MODEL`: they are the settings; each starts or is refused."""

import dataclasses
import functools
import json
import math

import click
import pytest
from click.testing import CliRunner
from drawn_cells import write_set
from wsiseg_models import registry
from wsiseg_models.checkpoint import read_card
from wsiseg_models.registry import MODELS

from wsi_pipeline.cli import train_options
from wsi_pipeline.cli.main import cli
from wsi_pipeline.cli.train_options import NETWORK, build_config, model_command, targets
from wsi_pipeline.core.errors import UsageError

FAST_MODELS = ("dssnet", "donet")
FAST_OPTIONS = {name for model in FAST_MODELS for name in targets(model)}
EVERY = [
    pytest.param(
        model, name,
        marks=() if model in FAST_MODELS or name not in FAST_OPTIONS else pytest.mark.slow,
    )
    for model in MODELS for name in targets(model)
]  # fmt: skip
"""Options that one of `FAST_MODELS` has too are slow for the other networks."""
SMALL = {
    "backbone": "resnet18", "trunk_width": 8, "norm": "group", "trainable_layers": 5,
    "fpn_width": 8, "anchor_px": (8, 16, 32, 64, 128), "rpn_samples": 32, "roi_samples": 16,
    "rpn_pre_nms": (60, 40), "rpn_post_nms": (30, 20), "box_width": 16, "mask_width": 8,
    "mask_convs": 1, "score": 0.05,
}  # fmt: skip
BAD = ["-1", "0", "2", "nonsense", "nan", "1e9", ""]
FEW_BAD = ["-1", "nonsense"]
"""For options that `FAST_MODELS` have too: the same fields with the same checks."""


@pytest.fixture(autouse=True, scope="module")
def commands_once():
    """Make the command of each model once, not for each of two thousand calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_options, "model_command", functools.cache(model_command))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("train") / "data")


def wsiseg(*args):
    return CliRunner().invoke(cli, ["train", *(str(a) for a in args)])


def common(data, out):
    return ["--data", f"{data}@0.5", "--out", out, "--device", "cpu", "--quiet"]


def values(target):
    """Values that make sense for an option, other than its default where there is another."""
    if target.name == "crop_px":
        return [288]
    if target.name == "teacher_views":
        return [4]
    if choices := target.field.metadata["choices"]:
        return list(choices)
    default = target.default
    if isinstance(default, bool):
        return [None]
    if isinstance(default, int):
        return [default + 1]
    if isinstance(default, float):
        return ["7" if math.isinf(default) else str(default * 0.9 + 0.01)]
    return []


def test_the_models_are_listed_and_an_unknown_one_is_refused():
    listed = wsiseg("--help").stdout
    for name, entry in MODELS.items():
        assert f"{name} " in listed and entry.summary.split(",")[0] in listed
    for args, match in ((("resnet",), "Unknown model 'resnet'"), ((), "Missing MODEL")):
        result = wsiseg(*args)
        assert result.exit_code == 2
        assert f"{match}; known: {', '.join(sorted([*MODELS, 'nucleus_kinds']))}" in result.stderr


@pytest.mark.parametrize("model", MODELS)
def test_defaults_are_those_of_the_settings(model):
    """Of the click options, of the help text and of a run for which nothing was given."""
    options = {p.name: p for p in model_command(model).params}
    config = build_config(model, {"data": ("a",), "out": "o"}, "cpu")
    network = MODELS[model].config
    for name, target in targets(model).items():
        if name == "data":  # given
            continue
        part = network if target.part == NETWORK else config
        if target.part not in ("", NETWORK):
            part = getattr(config, target.part)
        if target.default is not dataclasses.MISSING and name != "data":
            true = getattr(part, target.field.name)
            assert options[name].default == true == target.default, name
        assert options[name].help == target.field.metadata["help"]
    shown = " ".join(wsiseg(model, "--help").stdout.split())
    for name in ("batch", "lr"):
        assert f"[default: {getattr(config, name)}]" in shown
    fields = {f.name for f in dataclasses.fields(network)} - {"classes"}
    assert {t.field.name for t in targets(model).values() if t.part == NETWORK} == fields


@pytest.mark.parametrize(("model", "name"), EVERY)
def test_every_option_makes_settings_or_is_refused_in_words(
    model, name, data, tmp_path, monkeypatch
):
    started = []
    monkeypatch.setattr(
        train_options, "_start", lambda config, quiet: started.append(config) or config.out
    )
    target = targets(model)[name]
    flag = target.flags[0].split("/")[0]
    if name in ("data", "out", "device"):
        return
    bad = FEW_BAD if model not in FAST_MODELS and name in FAST_OPTIONS else BAD
    for value in [*values(target), *bad]:
        given = [flag] if isinstance(target.default, bool) else [flag, value]
        if name in ("cluster_overlap", "cluster_alpha"):
            given = [flag, value, value]
        result = wsiseg(model, *common(data, tmp_path), *given)
        assert result.exit_code in (0, 2), (given, result.output, result.exception)
        if result.exit_code == 2:
            assert result.stderr.startswith("wsiseg: ") and len(result.stderr) < 600
            assert "Traceback" not in result.stderr
    plausible = [v for v in values(target) if v is not None]
    if len(started) == 0:
        refused = ("momentum", "pretrained_as", "block", "stage", "start_share")
        assert plausible == [] or name in refused or (model, name) == ("pspnet", "width"), name


@pytest.mark.parametrize("model", ["maskrcnn", "donet", "cascade"])
def test_every_option_of_a_network_builds_it_or_is_refused_in_words(model):
    """On a small network; what is accepted is built."""
    built = 0
    for target in targets(model).values():
        if target.part != NETWORK or target.field.name in SMALL:
            continue
        choices = [c for c in values(target) if c is not None] or [not target.default]
        for value in choices:
            value = (
                type(target.default)(value) if isinstance(target.default, int | float) else value
            )
            options = {**SMALL, "dcn_stages": (5,), target.field.name: value}
            if isinstance(target.default, tuple):
                options[target.field.name] = target.default
            try:
                registry.build(model, **options)
                built += 1
            except ValueError as error:
                assert "need" in str(error) or "must be" in str(error), error
    assert built > 20


def flags(options):
    for name, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        yield from (f"--{name.replace('_', '-')}", text)


def test_a_run_starts_with_many_options_and_says_so_in_its_card(data, tmp_path):
    run = ("--crop-px", 64, "--batch", 1, "--steps", 2, "--workers", 0, "--save-every", 1,
           "--cluster-chance", 1, "--cluster-overlap", 0.1, 0.5, "--cluster-most", 1,
           "--optimizer", "sgd", "--momentum", 0.5, "--schedule", "steps", "--milestone", 1,
           "--scale", 1, "--scale", 1.5, "--zoom", 1.1, "--normalise", "dataset",
           "--option", "max_detections=7", "--no-mask-every-stage")  # fmt: skip
    result = wsiseg("cascade", "--light", *flags(SMALL), *common(data, tmp_path / "o"), *run)
    assert result.exit_code == 0, result.output
    card = read_card(tmp_path / "o" / "cascade.safetensors")
    assert card.options["box_width"] == 16 and card.options["max_detections"] == 7
    assert card.options["fusion_width"] == 64  # of --light
    assert card.options["mask_every_stage"] is False
    assert card.training["clusters"]["overlap"] == [0.1, 0.5]
    assert card.training["augmentation"]["scale"] == 1.1
    assert (card.training["momentum"], card.training["milestones"]) == (0.5, [1])
    assert card.training["scales"] == [1, 1.5]
    again = wsiseg("cascade", "--light", *common(data, tmp_path / "o"))
    assert again.exit_code == 2
    assert "holds a run with another" in again.stderr


def test_dssnet_starts_with_two_classes(data, tmp_path):
    run = ("--crop-px", 32, "--batch", 1, "--steps", 1, "--workers", 0, "--width", 9, "--depth", 1,
           "--class", "nucleus", "--category", "nucleus", "--classes", "cell",
           "--category", "cytoplasm", "--no-sr-head", "--hard-weight", 2)  # fmt: skip
    result = wsiseg("dssnet", *common(data, tmp_path / "o"), *run)
    assert result.exit_code == 0, result.output
    card = read_card(tmp_path / "o" / "dssnet.safetensors")
    assert card.classes == ("nucleus", "cell")
    assert card.options == {"classes": 3, "width": 9, "depth": 1, "sr_head": False}
    assert card.training["optimizer"] == "adamw"


@pytest.mark.parametrize(
    ("model", "args", "match"),
    [
        ("donet", ("--hard-weight", 2), "No such option --hard-weight"),
        ("donet", ("--depth", 2), "No such option --depth"),
        ("donet", ("--option", "norm"), "'norm' is not NAME=VALUE"),
        ("donet", ("--option", "depth=2"), "donet has no option 'depth'; it has backbone"),
        ("donet", ("--optimizer", "adam"), "use adamw (which 'adam' built) or sgd"),
        ("donet", ("--norm", "none"), "unknown norm 'none'; use frozen, group, batch"),
        ("donet", ("--anchor-px", "12;24"), "'12;24' is no list of numbers; write e.g. 12,24,48"),
        ("dssnet", ("--momentum", 0.5), "No such option --momentum"),
        ("dssnet", ("--light",), "No such option --light"),
        ("dssnet", ("--initial", "nowhere.pt"), "nowhere.pt: no such file"),
        ("dssnet", ("--split", "fold:9/3"), "unknown split 'fold:9/3'"),
    ],
)
def test_what_does_not_apply_is_refused(data, tmp_path, model, args, match):
    result = wsiseg(model, *common(data, tmp_path / "o"), *args)
    assert result.exit_code == 2
    assert match in " ".join(
        result.stderr.replace("option:", "option").replace("option '--", "option --").split()
    )


def test_a_yaml_file_gives_options_and_the_command_line_wins(data, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        train_options, "_start", lambda config, quiet: started.append(config) or config.out
    )
    file = tmp_path / "train.yaml"
    file.write_text(
        f"data: {data}@0.5=2\nout: {tmp_path}/o\nlr: 1e-3\nsteps: 7\ncrop-px: 64\namp: false\n"
        "light: true\nanchor_px: [8, 16, 32, 64, 128]\nscale: [1, 1.5]\nzoom: 1.5\n"
        "cluster_overlap: [0.2, 0.3]\nconsistency: 'off'\nquiet: true\ndevice: cpu\n"
    )
    result = wsiseg("donet", "--config", file, "--steps", 9)
    assert result.exit_code == 0, result.output
    (config,) = started
    assert (config.lr, config.steps, config.crop_px, config.amp) == (1e-3, 9, 64, False)
    assert config.data == (f"{data}@0.5=2",)
    assert config.scales == (1.0, 1.5)
    assert (config.augmentation.scale, config.clusters.overlap) == (1.5, (0.2, 0.3))
    assert config.options["anchor_px"] == (8, 16, 32, 64, 128)
    assert (config.options["backbone"], config.options["consistency"]) == ("resnet18", "off")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lrr: 3", "unknown setting 'lrr'; known: amp, anchor_px"),
        ("config: a.yaml", "unknown setting 'config'"),
        ("steps: 2.5", "'2.5' is not a valid integer"),
        ("steps: [1, 2]", "not a valid integer"),
        ("steps:", "steps is read as None; give a value"),
        ("consistency: off", "consistency is read as False; give a value, in quotes"),
        ("amp: perhaps", "'perhaps' is not a valid boolean"),
        ("lr: -1", "lr -1.0 must be 0 or more"),
        ("- lr", "has no settings; write e.g. crop_px: 128"),
        ("", "has no settings"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_yaml_files_that_cannot_be_used(data, tmp_path, text, match):
    file = tmp_path / "train.yaml"
    file.write_text(text)
    result = wsiseg("donet", "--config", file, *common(data, tmp_path / "o"))
    assert result.exit_code == 2
    assert match in " ".join(result.stderr.split())
    missing = wsiseg("donet", "--config", tmp_path / "none.yaml", *common(data, tmp_path / "o"))
    assert "none.yaml cannot be read" in missing.stderr


def test_a_training_leaves_the_process_as_it_was(data, tmp_path):
    import cv2
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state(), torch.get_num_threads(), cv2.getNumThreads()
    run = ("--crop-px", 64, "--batch", 1, "--steps", 1, "--workers", 1)
    result = wsiseg("maskrcnn", *flags(SMALL), *common(data, tmp_path / "o"), *run)
    assert result.exit_code == 0, result.output
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), cv2.getNumThreads())


def test_settings_that_are_not_json_are_kept_in_the_card_as_text(data, tmp_path):
    config = build_config("donet", {"data": (f"{data}@0.5",), "out": tmp_path}, "cpu")
    assert json.loads(json.dumps(config.fingerprint())) == config.fingerprint()
    assert "out" not in config.fingerprint() and "device" not in config.fingerprint()
    with pytest.raises(UsageError, match="crop_px 100"):
        build_config("donet", {"data": ("a",), "out": tmp_path, "crop_px": 100}, "cpu")
    assert isinstance(model_command("donet"), click.Command)
