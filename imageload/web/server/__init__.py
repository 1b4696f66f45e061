"""Client connections: accepted, limited and closed."""
