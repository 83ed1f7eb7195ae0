"""Exact rules over the 4-D graph, one a file: each takes a graph, changes it and says how often it applied."""
