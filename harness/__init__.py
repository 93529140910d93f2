"""Steelyard's harness: runs one thing correctly, and knows no method by name."""
