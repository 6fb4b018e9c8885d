"""Many runs: jobs of a sweep, launchers, search, collecting and the named experiments."""
