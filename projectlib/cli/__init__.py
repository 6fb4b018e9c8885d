"""From a command line to jobs: what the entry scripts share.  Imports no torch."""

from projectlib.cli.main import launch

__all__ = ["launch"]
