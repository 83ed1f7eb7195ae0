"""Which operator of a graph would run where on a board, why, and what it costs: known before any compiler runs."""
