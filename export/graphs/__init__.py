"""Modules to ONNX files: configurations, storage, quantisation, the fixed-shape decoder, TensorRT's rules.

May import: `export.modules`, `export.made_up_speech`, `runtime`.
"""
