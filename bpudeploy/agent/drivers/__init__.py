"""The runtimes of boards, one file each; a board needs the one of its binary."""
