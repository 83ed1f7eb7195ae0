"""What runs on a board: sent there as one zip file, of the standard library, numpy and the board's own runtime."""
