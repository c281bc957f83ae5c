"""Objects to and from files."""
