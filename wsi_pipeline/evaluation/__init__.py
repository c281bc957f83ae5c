"""How good the objects of a model are."""
