"""Fuzzing: random calls of the ops against fp64, and random nonsense as arguments.

python -m tests.fuzz --examples 2000
"""
