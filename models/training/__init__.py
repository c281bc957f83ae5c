"""Training of all networks, and what it reads."""
