"""How cost is measured."""
