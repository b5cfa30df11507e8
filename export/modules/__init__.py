"""The checkpoints' computations as PyTorch modules, cut where the runtime wants them.

May import: nothing of this project.
"""
