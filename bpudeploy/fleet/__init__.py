"""Rollouts to a fleet: a journal of what happened, a pure decision on what is next, and the work on one board."""
