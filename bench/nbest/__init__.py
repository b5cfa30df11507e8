"""N-best files: their records, reading and writing, and their arrays."""
