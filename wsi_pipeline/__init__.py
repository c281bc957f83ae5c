"""Every nucleus of whole-slide cervical cytology, as objects that open in QuPath."""
