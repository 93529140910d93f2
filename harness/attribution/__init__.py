"""Training-data attribution on a finished run: train, fit, inspect, score, select, evaluate."""
