"""Texts and pictures to unit vectors: tokens, pixels, the two towers, the cache of picture embeddings.

May import: `runtime.sessions`, `runtime.bundle`, `runtime.errors`.
"""
