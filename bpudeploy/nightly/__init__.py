"""Regressions found by morning: a suite of recipes on a pool of boards, and verdicts that can be trusted."""
