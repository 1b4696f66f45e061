"""imageload: put lists of image URLs on Imgur, or on storage of one's own."""
