"""Waveforms to n-best lists of tokens: log-mel features, encoder, decoder, beam search, token rules.

May import: `runtime.sessions`, `runtime.bundle`, `runtime.errors`.
"""
