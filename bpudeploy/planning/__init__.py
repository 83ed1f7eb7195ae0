"""Which steps, in which order, with which keys."""
