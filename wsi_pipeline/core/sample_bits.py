"""Samples of 16 bits: the rule that slides share with the images of training and evaluation."""

from __future__ import annotations

from wsiseg_models.sample_bits import (
    ome_pixels,
    png_bits,
    scale_samples,
    tiff_bits,
    unknown_range,
)

__all__ = ["ome_pixels", "png_bits", "scale_samples", "tiff_bits", "unknown_range"]
