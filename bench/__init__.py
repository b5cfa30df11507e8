"""Measuring and tuning: n-best files, alpha, word error rates, latency, peers, reports."""
