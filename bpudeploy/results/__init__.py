"""Measurements, their statistics, and the report."""
