"""The report: one HTML file that needs no network, with its plots beside it as SVG and PNG."""

from bench.report.page import write_report

__all__ = ["write_report"]
