"""Detectors, which give boxes: Faster R-CNN and RetinaNet."""
