"""JSON in its shortest form."""

import json
from typing import Any

__all__ = ["compact_json"]


def compact_json(value: Any) -> str:
    """Return JSON without spaces, in UTF-8 characters; NaN and infinity are a `ValueError`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
