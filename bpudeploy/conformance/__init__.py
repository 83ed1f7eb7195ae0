"""Predict where each operator of a graph runs on a board, why, and at what cost, without running a compiler."""
