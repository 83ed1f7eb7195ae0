"""One check per limit: a node meets it, violates it, or the graph does not tell."""
