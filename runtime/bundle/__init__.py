"""The folder that an export leaves: its graphs, its settings, its tokenizers, and the hashes of all.

May import: `runtime.errors`.
"""
