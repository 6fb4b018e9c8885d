"""From a command line to sound settings: composition, the table of settings, plugins, checks and messages.

Imports no torch.
"""
