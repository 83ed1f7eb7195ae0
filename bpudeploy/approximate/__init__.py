"""Approximations of an exact 4-D graph, one per file: each modifies the graph and returns a summary."""
