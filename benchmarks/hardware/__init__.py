"""What `benchmarks/hardware_run.py` is made of.

The conductor (conductor.py) runs stages (stages.py), each a process of its own (process.py) that streams what it finds
(protocol.py), and is the only writer of the report. The other modules are stages, `child.py` is their entry point.
"""
