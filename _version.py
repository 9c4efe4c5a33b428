"""The version, for whatever must not import more."""

__version__ = "0.1.0"
