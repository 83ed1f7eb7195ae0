"""Transfer of a file to a board: verified there, sending only the bytes that the board lacks."""
