"""Images in a format that a target refuses become images in a format that it takes."""
