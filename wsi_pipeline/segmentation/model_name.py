"""The name of the model that a run will use, without loading the network."""

from __future__ import annotations

from wsiseg_models.checkpoint import read_card, shipped_models, weights_path

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, UnknownModelError

__all__ = ["model_name"]


def model_name(config: RunConfig) -> str:
    """Return the name of a run's model, from the card of its weights; PyTorch is not imported.

    Raises
    ------
    UnknownModelError, CheckpointError
        no weights of that name are installed, or the checkpoint cannot be read

    Examples
    --------
    >>> model_name(RunConfig(model="donet"))
    'donet'
    """
    if config.checkpoint is None and config.model not in shipped_models():
        known = ", ".join(shipped_models())
        raise UnknownModelError(
            f"there are no weights for a model {config.model!r}; known: {known}, or give "
            "--checkpoint"
        )
    try:
        return read_card(config.checkpoint or weights_path(config.model)).name
    except (FileNotFoundError, ValueError) as error:
        raise CheckpointError(str(error)) from error
