"""The tables, from the records of all runs."""
