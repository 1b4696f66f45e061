"""The HTTP API around the three handlers of main.py."""
