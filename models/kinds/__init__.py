"""What kind of nucleus: a small network on crops that are centred on a segmented nucleus."""
