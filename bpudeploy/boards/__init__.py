"""SSH connections to boards, and the embedded board for trying things out."""
