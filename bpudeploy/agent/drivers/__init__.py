"""Drivers for the runtimes of boards, one file each."""
