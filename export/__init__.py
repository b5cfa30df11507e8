"""Conversion of Whisper and CLIP checkpoints to one bundle of ONNX graphs; needs torch, the runtime does not."""
