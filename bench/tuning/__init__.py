"""Tuning of alpha from an n-best file."""

from bench.tuning.alpha import TuneResult, tune
from bench.tuning.notebook_sweep import tune_alpha
from bench.tuning.options import TuneOptions

__all__ = ["TuneOptions", "TuneResult", "tune", "tune_alpha"]
