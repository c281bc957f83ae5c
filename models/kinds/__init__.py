"""What kind of nucleus: an encoder on crops that are centred on a nucleus, and a small head."""
