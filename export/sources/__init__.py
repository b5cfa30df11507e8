"""Checkpoints as they lie on disk or at the hub, one module for each format."""
