"""The names of all models as parameters of a test; most of those without weights are slow."""

import pytest
from wsiseg_models.registry import MODELS

SLOW = ("unetpp", "pspnet", "dfanet", "pgunet", "ms_rcnn", "htc", "orcnn")


def marked_models():
    """Return one parameter for each model."""
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in sorted(MODELS)]
