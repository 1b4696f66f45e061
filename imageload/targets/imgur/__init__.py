"""Imgur's rules: its responses, its albums, and how an image is uploaded and deleted."""
