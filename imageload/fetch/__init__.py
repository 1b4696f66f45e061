"""A URL becomes a temp file, safely."""
