"""Conformance: where operators would run, before any compiler."""
