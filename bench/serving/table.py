"""A report of load as plain text."""

from typing import Any, Final

from bench.latency.tables import machine_line

SHOWN: Final = ("p50", "p90", "p99")


def load_text(report: dict[str, Any]) -> str:
    """Return the figures of all scenarios, the machine first and warnings last."""
    single, offline, server = report["single_stream"], report["offline"], report["server"]
    model = report["model"]
    block = model.get("earsight", {})
    served = ", ".join(str(block[name]) for name in ("precision", "provider") if name in block)
    p90 = single["latency"]["percentiles"]["p90"]
    parts = [
        machine_line(report["system"]),
        f"{model['id']}, {served}; {report['data']['utterances']} utterances, "
        f"{report['data']['audio_s']:.1f} s of audio",
        f"SingleStream  p90 {p90['seconds'] * 1e3:.0f} ms{'' if p90['supported'] else '?'} "
        f"({single['latency']['count']} requests)",
        f"Offline       {offline['samples_per_s']:.2f} samples/s, {offline['rtfx']:.1f} times as fast as "
        f"speech ({report['settings']['at_a_time']} at a time)",
        f"Server        {server_line(server)}",
        rate_table(server["rates"]),
    ]
    return "\n".join([*parts, *(f"warning: {text}" for text in report["warnings"])])


def server_line(server: dict[str, Any]) -> str:
    """Return the highest rate in words."""
    bound = f"p{server['percentile']:g} within {server['bound_s']:g} s"
    if server["highest_rate"] is None:
        return f"no rate kept {bound}"
    return f"{server['highest_rate']:.2f} requests/s with {bound}"


def rate_table(rates: list[dict[str, Any]]) -> str:
    """Return one line for every rate; a question mark where too few requests support the percentile."""
    head = f"{'rate/s':>8}{'n':>6}{'answered/s':>12}{'goodput/s':>11}"
    lines = [head + "".join(f"{name + ' ms':>10}" for name in SHOWN) + "  statuses"]
    for row in rates:
        cells = "".join(f"{shown_ms(row, name):>10}" for name in SHOWN)
        lines.append(
            f"{row['rate']:>8.2f}{row['requests']:>6}{row['answered_per_s']:>12.2f}{row['goodput_per_s']:>11.2f}"
            f"{cells}  {shown_statuses(row['statuses'])}"
        )
    return "\n".join(lines)


def shown_ms(row: dict[str, Any], name: str) -> str:
    """Return one percentile of a rate in milliseconds."""
    if row["latency"] is None:
        return "–"
    entry = row["latency"]["percentiles"][name]
    return f"{entry['seconds'] * 1e3:.0f}{'' if entry['supported'] else '?'}"


def shown_statuses(statuses: dict[str, int]) -> str:
    """Return counts such as "200 × 31, 503 × 4"."""
    return ", ".join(f"{status} × {number}" for status, number in statuses.items())
