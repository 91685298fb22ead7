"""A private container registry that is an appliance: one process, one settings file."""

__version__ = "0.1.0"
