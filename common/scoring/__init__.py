"""Scores, and the counts of every image that they are computed from."""
