"""The package's version, in a module without imports so that every other one can read it."""

__version__ = "0.2.0"
