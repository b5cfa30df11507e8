"""Latency of a bundle or an architecture, and the statistics of raw times."""
