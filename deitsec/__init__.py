"""deitsec finds out how safe an image classifier is, fast."""

__version__ = "0.1.0"
