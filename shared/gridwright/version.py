"""The version of this Gridwright."""

from importlib.metadata import version

VERSION = version("gridwright-shared")
