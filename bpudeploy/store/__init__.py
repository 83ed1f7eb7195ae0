"""Content-addressed objects and step records on disk."""
