"""The types and helpers that everything else uses."""
