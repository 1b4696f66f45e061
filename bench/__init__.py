"""The service measured end to end beside curl and its own first version: `python -m bench`."""
