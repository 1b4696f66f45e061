"""A bucket of one's own as a target: its rules, its responses, its requests."""
