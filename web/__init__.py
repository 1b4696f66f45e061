"""The HTTP face beside the three handlers of the contract, which live in main.py."""
