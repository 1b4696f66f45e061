"""PostgreSQL: the store that many nodes share."""
