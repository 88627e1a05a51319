"""The operators that methods compute with, and how the sources in `cuda/` are compiled for them."""
