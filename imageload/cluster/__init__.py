"""Many nodes on one PostgreSQL: which node works on which slice, and what the others show of it."""
