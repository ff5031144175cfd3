"""The version of this program, as the installed distribution says."""

from importlib.metadata import version

VERSION = version("bellwether")
