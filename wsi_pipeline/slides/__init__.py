"""From a file to pixels, and where to look."""
