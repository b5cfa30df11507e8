"""Conversion of Whisper and CLIP checkpoints to one bundle of ONNX graphs.

Needs torch; the runtime does not.
"""
