"""The table that `bench.gpu_check` prints."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.measure.timing import nearest_rank

MILLISECONDS = 1000.0
GIBIBYTE = 2**30


def render(report: Mapping[str, Any]) -> str:
    """Return the whole report as text."""
    tables = (_head, _parity, _speech, _steps, _texts, _copies, _placement, _torch)
    parts = ["\n".join(table(report)) for table in tables]
    return "\n\n".join([*parts, f"passed: {'yes' if report['passed'] else 'NO'}"])


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    gpu = report.get("gpu") or {}
    yield f"{report['provider']} on {gpu.get('name', 'this CPU')}"
    workload = report["workload"]
    yield f"{workload['beams']} beams, {workload['steps']} tokens, {report['rounds']} rounds"


def _parity(report: Mapping[str, Any]) -> Iterator[str]:
    titles = f"{'log-prob diff':>15}{'allowed':>10}{'same n-best':>13}{'same best':>11}"
    yield f"{'parity with CPU fp32':<22}{titles}"
    for entry in report["parity"]:
        same = f"{entry['identical_hypotheses']:>13.0%}{entry['identical_best']:>11.0%}"
        difference = f"{entry['prompt_difference']:>15.1e}{entry['tolerance']:>10.0e}"
        yield f"{entry['precision']:<22}{difference}{same}  {_word(entry['passed'])}"


def _speech(report: Mapping[str, Any]) -> Iterator[str]:
    names = ("encoder", "prompt", "step", "decoding")
    titles = "".join(f"{name:>10}" for name in names)
    yield f"{'median, ms':<8}{'batch':>6}{titles}{'floor/step':>12}{'utterances/s':>14}{'GPU GiB':>9}"
    for entry in report["speech"]:
        stages, memory = entry["stages"], entry["memory_bytes"]
        medians = [
            stages[name]["percentiles"]["p50"]["seconds"] if name in stages else None for name in names
        ]
        times = "".join(f"{_milliseconds(seconds, 2):>10}" for seconds in medians)
        gibibytes = "-" if memory is None else f"{memory / GIBIBYTE:.2f}"
        rate = f"{entry['utterances_per_second']:>14.1f}{gibibytes:>9}"
        yield f"{entry['precision']:<10}{entry['batch']:>6}{times}{_milliseconds(entry['floor_s']):>12}{rate}"


def _steps(report: Mapping[str, Any]) -> Iterator[str]:
    forms = ("growing", "fixed", "recorded")
    titles = "".join(f"{form:>12}" for form in forms)
    yield f"{'step, ms':<10}{'batch':>6}{titles}{'floor':>10}{'best/floor':>12}"
    for steps in report["steps"]:
        for row in steps["rows"]:
            medians, floor = row["median_s"], row["floor_s"]
            found = "".join(f"{_milliseconds(medians.get(form)):>12}" for form in forms)
            ratio = f"{min(medians.values()) / floor:.1f}" if floor and medians else "-"
            yield f"{steps['precision']:<10}{row['batch']:>6}{found}{_milliseconds(floor):>10}{ratio:>12}"
        for form in forms[1:]:
            state = steps["forms"][form]
            if "left_out" in state:
                yield f"  {steps['precision']} {form}: not measured ({state['left_out']})"
            else:
                same = f"{state['identical_hypotheses']:.0%} of the hypotheses as with a growing cache"
                yield f"  {steps['precision']} {form}: {same}  {_word(state['passed'])}"


def _texts(report: Mapping[str, Any]) -> Iterator[str]:
    texts = report["texts"]
    yield f"CLIP text, {texts['precision']}"
    for count, raw in texts["raw_s"].items():
        middle = nearest_rank(sorted(raw), 50)
        yield f"  {count:>5} texts {middle * MILLISECONDS:>10.3f} ms {int(count) / middle:>12.0f} texts/s"


def _copies(report: Mapping[str, Any]) -> Iterator[str]:
    yield "keys and values copied between host and device"
    for entry in report["copies"]:
        kept = [copy for copy in entry["copies"] if copy["is_cache"]]
        others = sum(copy["count"] for copy in entry["copies"]) - sum(copy["count"] for copy in kept)
        found = f"{len(kept)} tensors; {others} copies of other tensors"
        yield f"  {entry['precision']:<8} {found}  {_word(entry['passed'])}"


def _placement(report: Mapping[str, Any]) -> Iterator[str]:
    yield "nodes"
    for graph, nodes in report["placement"].items():
        where = ", ".join(f"{count} on {place}" for place, count in nodes["nodes"].items())
        fallen = ", ".join(f"{count} {operator}" for operator, count in nodes["fallen_operators"].items())
        yield f"  {graph}: {where}{f' ({fallen})' if fallen else ''}"


def _torch(report: Mapping[str, Any]) -> Iterator[str]:
    torch = report["torch"]
    if "ratios" not in torch:
        yield f"PyTorch float16 on this GPU: not measured ({torch.get('left_out', 'no GPU in use')})"
        return
    yield "PyTorch float16 on this GPU over this project (above 1: faster here)"
    for entry in torch["ratios"]:
        low, high = entry["interval_95"]
        wanted = "" if entry["wanted"] is None else f"  wanted {entry['wanted']:g}  {_word(entry['passed'])}"
        yield f"  {entry['what']:<18}{entry['value']:>7.2f}  [{low:.2f}, {high:.2f}]{wanted}"


def _milliseconds(seconds: float | None, digits: int = 3) -> str:
    return "-" if seconds is None else f"{seconds * MILLISECONDS:.{digits}f}"


def _word(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "shown"}[passed]
