"""One file per revision. A released revision is never edited; a change is a new one."""
