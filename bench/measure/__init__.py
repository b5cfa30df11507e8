"""Clocks, percentiles, memory, the machine: what every measurement needs.

May import: `runtime`.
"""
