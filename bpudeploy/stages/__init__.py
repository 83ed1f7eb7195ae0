"""The pure stages, one file each."""
