"""Files: opened where a caller gave them, written whole or not at all, closed at the end.

May import: `runtime.errors`.
"""
