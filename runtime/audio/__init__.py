"""Files and arrays of any origin to mono float32 waveforms, cut into segments.

May import: `runtime.errors`.
"""
