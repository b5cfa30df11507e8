"""`doctor`: what this machine has, what a bundle needs, and what would run where."""

import argparse
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle.bundle import Bundle
from runtime.commands.console import EXIT_DONE
from runtime.sessions.factory import Provider, SessionFactory, select_provider
from runtime.sessions.machine import Machine, read_machine
from runtime.sessions.obstacles import ORT_NAMES, Obstacle, ProviderName, find_obstacles
from runtime.sessions.opening import default_precision
from runtime.sessions.processors import usable_processors

SCHEMA: Final = "earsight.doctor/1"


@dataclass(frozen=True, slots=True)
class BundleDiagnosis:
    """What a bundle needs and where its graphs ran when they were opened.

    Attributes:
        folder: The bundle.
        name: Its name.
        precisions: The precisions that it has.
        chosen: The precision that would be used here.
        graph_bytes: Size of the graphs of that precision: what has to fit into memory at least.
        placement: Graph file to its node placement, as `Placement.to_dict` gives it.
    """

    folder: Path
    name: str
    precisions: tuple[str, ...]
    chosen: str
    graph_bytes: int
    placement: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {
            "folder": str(self.folder),
            "name": self.name,
            "precisions": list(self.precisions),
            "chosen_precision": self.chosen,
            "graph_bytes": self.graph_bytes,
            "placement": {graph: dict(nodes) for graph, nodes in self.placement.items()},
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The answer of `doctor`.

    Attributes:
        machine: Wheels, driver and libraries.
        processors: Logical processors that this process may use.
        obstacles: For every provider what is in its way; empty where it runs.
        provider: The one that would be used.
        notes: What does not stop the work and should be known.
        bundle: About the bundle, where one was given.
    """

    machine: Machine
    processors: int
    obstacles: Mapping[ProviderName, tuple[Obstacle, ...]]
    provider: Provider
    notes: tuple[str, ...]
    bundle: BundleDiagnosis | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, for `--json`."""
        return {
            "schema": SCHEMA,
            "python": platform.python_version(),
            "processors": self.processors,
            "machine": self.machine.to_dict(),
            "providers": {
                name: {"runs": not found, "obstacles": [str(item) for item in found]}
                for name, found in self.obstacles.items()
            },
            **self.provider.to_dict(),
            "notes": list(self.notes),
            "bundle": self.bundle.to_dict() if self.bundle else None,
        }


def diagnose(
    bundle: Path | None = None, *, provider: str | None = None, machine: Machine | None = None
) -> Diagnosis:
    """Look at the machine and, where one is given, at a bundle, whose graphs it opens.

    Args:
        bundle: A bundle folder.
        provider: The provider that shall be used; None for the best.
        machine: The facts; read from this machine when left out.

    Returns:
        The diagnosis.

    Raises:
        ProviderError: The provider was asked for by name and cannot run here.
        BundleError: The bundle cannot be used.
    """
    facts = machine or read_machine()
    obstacles: dict[ProviderName, tuple[Obstacle, ...]] = {
        name: find_obstacles(name, facts) for name in ORT_NAMES
    }
    chosen = select_provider(provider, machine=machine)
    return Diagnosis(
        machine=facts,
        processors=usable_processors(),
        obstacles={**obstacles, **dict(chosen.passed_over)},
        provider=chosen,
        notes=_notes(facts),
        bundle=None if bundle is None else _diagnose_bundle(Bundle.open(bundle), chosen),
    )


def _diagnose_bundle(bundle: Bundle, provider: Provider) -> BundleDiagnosis:
    factory = SessionFactory(provider)
    precision = default_precision(bundle, provider)
    graphs = bundle.graphs(precision)
    for graph in graphs:
        factory.open(graph)
    parts = [part for graph in graphs for part in graph.path.parent.glob(f"{graph.path.name}*")]
    return BundleDiagnosis(
        folder=bundle.folder,
        name=bundle.name,
        precisions=bundle.precisions,
        chosen=precision,
        graph_bytes=sum(part.stat().st_size for part in parts),
        placement={name: placement.to_dict() for name, placement in factory.placements.items()},
    )


def _notes(machine: Machine) -> tuple[str, ...]:
    if len(machine.distributions) > 1:
        both = ", ".join(f"{name} {version}" for name, version in machine.distributions.items())
        return (
            f"{both}: more than one distribution of onnxruntime is installed; they write the same files. "
            f"Keep one: pip uninstall -y {' '.join(machine.distributions)}, then install the one you want",
        )
    return ()


def render(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as text for a terminal."""
    machine, provider = diagnosis.machine, diagnosis.provider
    wheels = ", ".join(f"{name} {version}" for name, version in machine.distributions.items())
    lines = [
        f"system       {machine.system} {machine.architecture}, Python {platform.python_version()}, "
        f"{diagnosis.processors} processors",
        f"onnxruntime  {wheels or 'of unknown origin'}"
        f"{f', built for CUDA {machine.cuda_build}' if machine.cuda_build else ''}",
        f"GPU          {_gpu_line(machine)}",
        f"TensorRT     {machine.tensorrt or 'none'}",
        f"OpenVINO     {_openvino_line(machine)}",
    ]
    for name, found in diagnosis.obstacles.items():
        lines.append(f"{name:<12} {'runs' if not found else 'cannot run here'}")
        lines += [f"{'':<13}- {item.reason}\n{'':<13}  mend: {item.remedy}" for item in found]
    lines += [f"note         {note}" for note in diagnosis.notes]
    lines.append(f"would use    {provider.name}{f' on {provider.gpu.name}' if provider.gpu else ''}")
    if diagnosis.bundle:
        lines += _bundle_lines(diagnosis.bundle)
    return "\n".join(lines)


def _gpu_line(machine: Machine) -> str:
    version = ".".join(map(str, machine.driver.version)) if machine.driver.version else "none"
    gpus = ", ".join(
        f"{gpu.name} (compute capability {gpu.capability}, {gpu.memory_bytes / 2**30:.0f} GiB)"
        for gpu in machine.driver.gpus
    )
    return f"{gpus}; driver for CUDA {version}" if gpus else machine.driver.fault or "none"


def _openvino_line(machine: Machine) -> str:
    facts = machine.openvino
    if facts.processor is None:
        return "none" if facts.version is None else f"{facts.version}, of no use here"
    units = "AMX" if machine.amx_bf16 else "bf16" if facts.bf16 else "no bf16"
    return f"{facts.version} on {facts.processor} ({units})"


def _bundle_lines(bundle: BundleDiagnosis) -> list[str]:
    lines = [
        f"bundle       {bundle.name}: {', '.join(bundle.precisions)}; {bundle.chosen} would run, "
        f"{bundle.graph_bytes / 2**20:.1f} MiB of graphs",
    ]
    for graph, placement in bundle.placement.items():
        nodes = ", ".join(f"{count} on {place}" for place, count in placement["nodes"].items())
        lines.append(f"{'':<13}{graph}: {nodes}, {placement['precision']}")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m runtime doctor`."""
    parser.add_argument("--bundle", metavar="DIR", type=Path, help="also open the graphs of this bundle")
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help="cpu, cuda, tensorrt or openvino: that one, or status 2 and why not",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis.

    Raises:
        ProviderError: `--provider` cannot run here.
        BundleError: `--bundle` cannot be used.
    """
    diagnosis = diagnose(args.bundle, provider=args.provider)
    text = json.dumps(diagnosis.to_dict(), indent=2) if args.json else render(diagnosis)
    sys.stdout.write(f"{text}\n")
    return EXIT_DONE
