"""Scores of a model on COCO sets."""
