"""Lowering: a network of any rank, operation by operation, into 4-D nodes."""
