"""When a target takes requests: its rate limits, circuit breakers and gates."""
