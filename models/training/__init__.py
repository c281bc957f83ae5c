"""Training of all networks, and the sets that it reads."""
