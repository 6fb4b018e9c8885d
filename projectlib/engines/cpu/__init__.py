"""Compiled engines for the CPU: what eager does, by numba kernels on the tensors' own memory."""
