"""Which devices compute bfloat16 in hardware."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["autocast", "has_bfloat16"]


def has_bfloat16(device: str) -> bool:
    """Return whether a device is known to compute bfloat16 in hardware, not by emulation.

    False for ``mps``: Apple's GPUs differ, and none was measured.
    """
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.startswith("mps"):
        return False
    # Some PyTorch versions from 2.11 on lack this function; float32 works everywhere.
    abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def autocast(device: str, wanted: bool) -> torch.autocast:
    """Return the context in which a network is trained: bfloat16 if `wanted` and in hardware.

    Emulated it takes about ten times as long as float32 (measured on a CPU with AVX2 only).
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and has_bfloat16(device))
