"""The report of a tuning run: one HTML page that needs no network, and its plots as files."""

from bench.report.page import write_report

__all__ = ["write_report"]
