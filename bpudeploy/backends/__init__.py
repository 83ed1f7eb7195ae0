"""Compile backends: the protocol, the registry, and `ort`."""
