"""From pixels to the objects of a region."""
