"""The version, for whatever must not import more."""

__version__ = "0.2.0"
