"""Plans: steps in order, with their keys."""
