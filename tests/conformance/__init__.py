"""Conformance: predicted operator placement."""
