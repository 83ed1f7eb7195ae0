"""Rollouts to a fleet: a journal of events, a pure decision on what is next, and the tasks on each board."""
