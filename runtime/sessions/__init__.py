"""Graphs on an execution provider: which one works here, its options, its proof.

May import: `runtime.bundle`, `runtime.errors`.
"""
