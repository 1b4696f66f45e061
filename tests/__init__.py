"""The tests: one file a module, and tests of the whole."""
