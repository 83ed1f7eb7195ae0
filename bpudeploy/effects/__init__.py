"""What is done to a board: push and benchmark."""
