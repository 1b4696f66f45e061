"""Jobs that outlive the process."""
