"""Tables and pages about slides."""
