"""`python -m runtime`: one module a command, and what all command lines share.

May import: all of `runtime`.
"""
