"""TensorRT: shapes of an engine, the engine of a graph, the store of engines.

May import: `runtime.bundle`, `runtime.errors`.
"""
