"""The loop over a plan, and the run directory."""
