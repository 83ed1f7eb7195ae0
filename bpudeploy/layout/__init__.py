"""Exact changes of how the 4-D graph lies in the memory of an accelerator: same network, other shapes."""
