"""Slide files: their pixels, their foreground and their focus."""
