"""Recipes and targets: YAML to typed, located values."""
