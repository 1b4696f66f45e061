"""Imgur's rules: its responses, its quota, its albums, and how an image is uploaded and deleted."""
