"""One slide to a finished run folder."""
