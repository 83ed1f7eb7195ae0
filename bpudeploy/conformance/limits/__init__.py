"""One function a limit: does a node keep it, break it, or can nobody tell from the graph."""
