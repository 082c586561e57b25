"""The version, in a file that knows nothing of the package, so that every record can carry it."""

__version__ = "0.1.0"
