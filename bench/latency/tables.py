"""The tables of a latency report, as plain text."""

from typing import Any

from bench.latency.pareto import pareto_table

# Percentiles that are printed; the report has more.
SHOWN = ("p50", "p90", "p95", "p99")
MIB = 1 << 20


def report_text(report: dict[str, Any]) -> str:
    """Return the tables of any mode, the machine first and warnings last."""
    parts = [machine_line(report["system"])]
    if report["mode"] == "bundle":
        parts += _bundle(report)
    elif report["mode"] == "clips":
        parts += _clips(report)
    elif report["mode"] == "architecture":
        parts += _architecture(report)
    else:
        for padding, part in report["paddings"].items():
            parts.append(f"peers pad to {padding} ({part['peers_pad_to']} positions)")
            parts += [_systems(part["systems"]), _ratios(part["ratios"])]
    parts += [f"warning: {text}" for text in report["warnings"]]
    return "\n\n".join(parts)


def machine_line(system: dict[str, Any]) -> str:
    """Return processor, cores, telling flags and memory of `system_info`."""
    cpu = system["cpu"]
    memory = f", {system['memory_bytes'] / (1 << 30):.0f} GiB" if system["memory_bytes"] else ""
    return f"{cpu['model']}, {cpu['usable_cores']} cores ({' '.join(cpu['flags'])}){memory}"


def _bundle(report: dict[str, Any]) -> list[str]:
    settings, data = report["settings"], report["data"]
    head = (
        f"{report['bundle']['name']} {report['bundle']['sha256'][:12]}, {settings['precision']}, "
        f"{', '.join(settings['providers']['decoder'])}, {settings['beams']} beams, "
        f"{data['utterances']} utterances, {data['audio_s']:.1f} s of audio"
    )
    parts = [head, stage_table(report["stages"])]
    parts.append(f"RTF {report['rtf']['corpus']:.4f} (RTFx {report['rtfx']:.1f})")
    if report["cold_start"]:
        stages = report["cold_start"]["stages"]
        times = ", ".join(
            f"{name} {entry['percentiles']['p50']['seconds']:.2f} s" for name, entry in stages.items()
        )
        memory = f"peak memory {report['peak_memory_bytes'] / MIB:.0f} MiB"
        parts.append(f"cold start: {times}; {memory}")
    if report["throughput"]:
        rows = [f"{'batch':>5}{'utterances/s':>14}{'RTFx':>9}"]
        rows += [
            f"{row['batch']:>5}{row['utterances_per_s']:>14.2f}{row['rtfx']:>9.1f}"
            for row in report["throughput"]
        ]
        parts.append("\n".join(rows))
    if "pareto" in report:
        scoring = f"WER: texts are {report['normalizer']['description']}."
        parts.append(f"{scoring}\n{pareto_table(report['pareto'])}")
    return parts


def stage_table(stages: dict[str, Any]) -> str:
    """Return percentiles in milliseconds; a question mark where there were too few samples to support one."""
    lines = [
        f"{'stage':<13}{'n':>6}" + "".join(f"{name:>11}" for name in SHOWN) + f"{'cv':>8}   milliseconds"
    ]
    for name, entry in stages.items():
        cells = ""
        for percentile in SHOWN:
            value = entry["percentiles"][percentile]
            cells += f"{value['seconds'] * 1e3:>10.2f}{' ' if value['supported'] else '?'}"
        variation = entry["coefficient_of_variation"]
        spread = "–" if variation is None else f"{variation * 100:.0f} %"
        lines.append(f"{name:<13}{entry['count']:>6}{cells}{spread:>8}")
    lines.append("? fewer samples than the percentile needs (MLPerf LoadGen's rule, see docs/measuring.md)")
    return "\n".join(lines)


def _architecture(report: dict[str, Any]) -> list[str]:
    settings = report["settings"]
    head = (
        f"{settings['architecture']}, random weights, {_window(settings)}, batch {settings['batch']}, "
        f"{settings['beams']} beams, {settings['steps']} generated tokens, {settings['threads']} threads"
    )
    parts = [head, _systems(report["systems"]), _ratios(report["ratios"])]
    for name, floor in report["floor"].items():
        ratio, size = floor["step_over_read"], floor["step_bytes"]["total"]
        share = report["outside_onnxruntime"][name]["share"]
        parts.append(
            f"{name}: a step takes {ratio['value']:.2f} times as long as reading its {size / 1e6:.1f} MB "
            f"once ({floor['gigabytes_per_second']:.1f} GB/s); "
            f"{share * 100:.1f} % of decoding is outside ONNX Runtime"
        )
    return parts


def _clips(report: dict[str, Any]) -> list[str]:
    settings, data = report["settings"], report["data"]
    company = f", {settings['busy_processes']} busy processes" if settings["busy_processes"] else ""
    head = (
        f"{report['bundle']['name']} {report['bundle']['sha256'][:12]}, {data['utterances']} utterances, "
        f"{data['audio_s']:.1f} s of audio, {settings['beams']} beams, {settings['threads']} threads{company}"
    )
    rows = [f"{'system':<24}{'p50':>9}{'p95':>9}{'encoder':>9}{'decoding':>9}{'WER %':>8}{'changed %':>11}"]
    for system in report["systems"]:
        stages, accuracy = system["stages"], report["accuracy"][system["name"]]
        times = [stages["whole"]["percentiles"][name]["seconds"] for name in ("p50", "p95")]
        times += [stages[name]["percentiles"]["p50"]["seconds"] for name in ("encoder", "decoding")]
        cells = "".join(f"{seconds * 1e3:>9.1f}" for seconds in times)
        changed = accuracy["first_changed"]
        shown = "–" if changed is None else f"{changed * 100:.1f}"
        rows.append(f"{system['name']:<24}{cells}{accuracy['wer'] * 100:>8.2f}{shown:>11}")
    notes = (
        f"milliseconds from log-mel to n-best tokens; WER: texts are {report['normalizer']['description']}; "
        "changed: first texts that differ from the system's float32"
    )
    peers = [entry for entry in report["ratios"] if not entry["system"].startswith("earsight")]
    return [head, "\n".join([*rows, notes]), _ratios(peers)]


def _window(settings: dict[str, Any]) -> str:
    seconds = settings.get("seconds")
    return "whole window" if seconds is None else f"{seconds:g} s of speech"


def _systems(systems: list[dict[str, Any]]) -> str:
    columns = ("encoder", "decoding", "whole", "least", "cv", "peak MiB", "distinct")
    head = f"{'system':<20}{'n':>4}" + "".join(f"{name:>10}" for name in columns)
    lines = [head]
    for system in systems:
        stages = system["stages"]
        whole = stages["whole"]
        cells = "".join(
            f"{stages[stage]['percentiles']['p50']['seconds'] * 1e3:>10.1f}"
            if stage in stages
            else f"{'–':>10}"
            for stage in ("encoder", "decoding", "whole")
        )
        variation = whole["coefficient_of_variation"]
        spread = "–" if variation is None else f"{variation * 100:.0f} %"
        distinct = system["distinct_hypotheses"]
        shown = "–" if distinct is None else str(min(distinct))
        memory = system["peak_memory_bytes"] / MIB
        start = f"{system['name']:<20}{whole['count']:>4}{cells}{whole['min_s'] * 1e3:>10.1f}"
        lines.append(f"{start}{spread:>10}{memory:>10.0f}{shown:>10}")
    return "\n".join([*lines, "medians in milliseconds"])


def _ratios(ratios: list[dict[str, Any]]) -> str:
    lines = []
    for entry in ratios:
        if entry["stage"] == "whole":
            low, high = entry["interval_95"]
            faster = f"{entry['against']} is {entry['value']:.2f} times as fast as {entry['system']}"
            lines.append(f"{faster} ({low:.2f} to {high:.2f})")
    return "\n".join(lines)
