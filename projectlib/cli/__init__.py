"""From a command line to jobs: what the entry scripts share.  Imports no torch."""
