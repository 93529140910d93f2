"""Golden traces: fifty steps of every method, compared with what they were."""
