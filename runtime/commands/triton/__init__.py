"""A model repository for NVIDIA Triton: its files, and the model that Triton's Python backend runs.

May import: all of `runtime` but the other commands.
"""
