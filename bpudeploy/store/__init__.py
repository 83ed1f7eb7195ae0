"""Content-addressed bytes and step records on disk."""
