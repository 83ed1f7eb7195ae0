"""Exact rules over the 4-D graph, one per file: each modifies the graph and returns how often it applied."""
