"""What n-best lists of a corpus cost: a model fitted on recorded runs, and what it says of larger ones.

May import: `bench.nbest`, `runtime`.
"""
