"""Networks that find instances: Mask R-CNN, Cascade (IMBMDCR-Net) and DoNet, one class for all."""
