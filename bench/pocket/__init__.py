"""The pocket corpus and the pocket checkpoints: small, trained here, carried by the repository.

Everything in this package is needed only to make the corpus again or to train again; the exporter
and the benchmark use the files that it once wrote (`data/`, `models/`).
"""
