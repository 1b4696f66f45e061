"""React to the Changes of jobs."""
