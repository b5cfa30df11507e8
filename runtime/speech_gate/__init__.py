"""Whether a text is believed: is there speech, and does the text run in a loop?

May import: `runtime.audio`, `runtime.results`, `runtime.whisper`, `runtime.errors`.
"""
