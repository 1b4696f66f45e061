"""Image URLs in documents: found where they stand, and replaced by links."""
