"""Weights in the formats that people publish."""
