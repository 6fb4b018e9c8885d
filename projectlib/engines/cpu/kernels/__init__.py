"""Kernels in the sense of compiled inner loops, by numba.  Nothing here imports torch.

Those of HSIC, k(a, b), are kernel values here, and K a kernel matrix.
"""
