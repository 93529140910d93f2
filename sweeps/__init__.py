"""Published comparisons, each one file: a spec is data, and running it again is a no-op."""
