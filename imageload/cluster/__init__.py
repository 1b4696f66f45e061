"""Many nodes on one PostgreSQL: each slice has one worker, and every node shows every job."""
