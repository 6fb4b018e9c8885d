"""From a command line to sound settings: composition, plugins, checks and messages.  Imports no torch."""
