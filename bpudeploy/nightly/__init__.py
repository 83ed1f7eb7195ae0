"""Nightly regression tests of a suite of recipes on a pool of boards."""
