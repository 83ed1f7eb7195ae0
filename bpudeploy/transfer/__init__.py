"""Transfer: a file onto a board, verified there, sending only what the board does not have."""
