"""A board's runtime, faked: see fixtures.py. The modules import each other relatively only: a board gets a copy."""
