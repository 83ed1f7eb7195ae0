"""Declared approximations of an exact 4-D graph, one a file: each changes numbers, and says what it did."""
