"""Pages of an attribution: read from its files, no torch."""
