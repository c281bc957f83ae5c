"""The tables of five papers: train, measure, and set our figures beside the published ones."""
