"""The networks of the exact rewrite."""

from tests.restructure.conftest import make_model

__all__ = ["make_model"]
