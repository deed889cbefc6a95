"""Workers, zombies, a cutter and a broker that are killed under load, and what may not come of it.

`python -m tests.streams.kill_suite` runs it; `test_kill_suite` and `benchmarks/kill_suite.py` are its users.
"""
