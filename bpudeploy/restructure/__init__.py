"""The exact rewrite of a vision transformer into 4-D convolutions, and the proof that it is exact."""
