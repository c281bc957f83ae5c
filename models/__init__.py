"""Networks of wsiseg, installed as ``wsiseg_models``; nothing here imports ``wsi_pipeline``."""
