"""Slides and fields with known truth."""
