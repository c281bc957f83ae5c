"""Instance models: Mask R-CNN, Cascade (IMBMDCR-Net) and DoNet on one core."""
