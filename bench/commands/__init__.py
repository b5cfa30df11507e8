"""`python -m bench`: one module a command.

May import: all of `bench`, `export`, `runtime`.
"""
