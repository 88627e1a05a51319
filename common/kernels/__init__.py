"""Kernels of the folder cuda/, compiled on this machine at first use, and the operators made of them."""
