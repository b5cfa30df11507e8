"""Texts compared: normalisers, the words of a text, error rates.

May import: `runtime`.
"""
