"""Child processes for work that is heavy and that strangers shape: images and documents."""
