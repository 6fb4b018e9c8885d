"""The inner loops, compiled by numba.  Nothing here imports torch."""
