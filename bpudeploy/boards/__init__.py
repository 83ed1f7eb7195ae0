"""Boards: one SSH connection each, and an embedded one to try things on."""
