"""Manifests: which audio belongs to which picture and which reference.

May import: `runtime`.
"""

from bench.manifest.utterances import Utterance, evenly_spread, read_manifest

__all__ = ["Utterance", "evenly_spread", "read_manifest"]
