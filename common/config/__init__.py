"""The configuration: read, completed, checked, and what its names mean."""
