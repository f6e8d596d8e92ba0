"""Benchmarks that can be believed: `python -m resnet_cuda bench` and `benchmarks/` are made of this.

A level (`levels/`) yields workloads, each with its candidates: ours and the peers. The runner prepares them, checks
what they compute, times those that are right in turn on the device's own timeline, and reports. docs/benchmarks.md
says what is measured and how.
"""
