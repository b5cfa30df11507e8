"""Names of measured systems. Nothing is imported before a system is asked for."""

from importlib import import_module
from typing import Any

from bench.peers.base import Peer
from bench.peers.clip_text import TextPeer
from runtime.errors import SettingsError

# Precisions that each system can run in on a CPU; bf16 by OpenVINO.
SPEECH_PRECISIONS = {
    "earsight": ("fp32", "int8", "bf16"),
    "earsight_short": ("fp32", "int8", "bf16"),
    "ctranslate2": ("fp32", "int8"),
    "transformers": ("fp32",),
    "optimum": ("fp32",),
    "notebook": ("fp32",),
}
TEXT_PRECISIONS = {"earsight": ("fp32", "int8"), "transformers": ("fp32",), "optimum": ("fp32",)}
# Module of `bench.peers` and class of each system.
SPEECH_CLASSES = {
    "earsight": ("earsight", "EarsightSpeech"),
    "earsight_short": ("earsight", "EarsightShortWindow"),
    "ctranslate2": ("ctranslate2", "CTranslate2"),
    "transformers": ("transformers", "Transformers"),
    "optimum": ("optimum", "Optimum"),
    "notebook": ("transformers", "Notebook"),
}
TEXT_CLASSES = {
    "earsight": ("earsight", "EarsightText"),
    "transformers": ("clip_text", "TorchText"),
    "optimum": ("clip_text", "OptimumText"),
}


def expand(names: list[str], precisions: list[str], available: dict[str, tuple[str, ...]]) -> list[str]:
    """Return system names with precision, such as "ctranslate2-int8", each once, in the order given.

    A system that has none of the asked precisions takes part in its own: a peer without int8 is still
    a peer of an int8 run.

    Raises:
        SettingsError: A system or precision is unknown.
    """
    for precision in precisions:
        if not any(precision in offered for offered in available.values()):
            known = sorted({offer for offered in available.values() for offer in offered})
            raise SettingsError(f"precision {precision!r} is unknown; expected one of {', '.join(known)}")
    systems = []
    for name in names:
        if name not in available:
            raise SettingsError(f"system {name!r} is unknown; expected one of {', '.join(available)}")
        offered = available[name]
        chosen = [precision for precision in precisions if precision in offered] or list(offered)
        systems += [f"{name}-{precision}" for precision in chosen]
    return list(dict.fromkeys(systems))


def split_name(system: str) -> tuple[str, str]:
    """Split "ctranslate2-int8" into name and precision."""
    name, _, precision = system.rpartition("-")
    return name, precision


def speech_peer(system: str) -> Peer:
    """Build a speech system by its name with precision.

    Raises:
        SettingsError: There is no such system.
    """
    peer: Peer = _load("speech system", system, SPEECH_PRECISIONS, SPEECH_CLASSES)
    return peer


def text_peer(system: str) -> TextPeer:
    """Build a text encoder by its name with precision.

    Raises:
        SettingsError: There is no such system.
    """
    peer: TextPeer = _load("text encoder", system, TEXT_PRECISIONS, TEXT_CLASSES)
    return peer


def _load(
    kind: str, system: str, precisions: dict[str, tuple[str, ...]], places: dict[str, tuple[str, str]]
) -> Any:
    """Build a class of a module that is loaded now: a process loads the libraries of its own system alone."""
    name, precision = split_name(system)
    offered = precisions.get(name, ())
    if precision not in offered:
        raise SettingsError(f"{kind} {system!r} is unknown")
    module, made = places[name]
    peer = getattr(import_module(f"bench.peers.{module}"), made)
    return peer(precision) if len(offered) > 1 else peer()
