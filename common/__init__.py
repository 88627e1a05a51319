"""What the methods share: datasets, models, the stages of the benchmark and their tables."""
