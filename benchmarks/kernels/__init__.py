"""The convolution passes of whole networks, planned and measured: python -m benchmarks.kernels."""
