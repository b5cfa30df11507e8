"""Corrections that a server kept: tuned on, and what they say about effort.

May import: `bench.nbest`, `bench.text`, `bench.tuning`, `bench.manifest`, and `runtime`.
"""
