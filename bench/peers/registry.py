"""Names of measured systems. Nothing is imported before a system is asked for."""

from bench.peers.base import Peer
from bench.peers.clip_text import TextPeer
from runtime.errors import SettingsError

# Precisions that each system can run in on a CPU.
SPEECH_PRECISIONS = {
    "earsight": ("fp32", "int8"),
    "earsight_short": ("fp32", "int8"),
    "ctranslate2": ("fp32", "int8"),
    "transformers": ("fp32",),
    "optimum": ("fp32",),
    "notebook": ("fp32",),
}
TEXT_PRECISIONS = {"earsight": ("fp32", "int8"), "transformers": ("fp32",), "optimum": ("fp32",)}
# What pip calls them, where it differs from what is imported.
REQUIREMENTS = {
    "earsight": (),
    "earsight_short": (),
    "ctranslate2": ("ctranslate2", "transformers", "torch"),
    "transformers": ("transformers", "torch"),
    "notebook": ("transformers", "torch"),
    "optimum": ("optimum", "onnxruntime", "transformers", "torch"),
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
    name, precision = split_name(system)
    if precision not in SPEECH_PRECISIONS.get(name, ()):
        raise SettingsError(f"speech system {system!r} is unknown")
    if name == "earsight":
        from bench.peers.earsight import EarsightSpeech

        return EarsightSpeech(precision)
    if name == "earsight_short":
        from bench.peers.earsight import EarsightShortWindow

        return EarsightShortWindow(precision)
    if name == "ctranslate2":
        from bench.peers.ctranslate2 import CTranslate2

        return CTranslate2(precision)
    if name == "optimum":
        from bench.peers.optimum import Optimum

        return Optimum()
    from bench.peers.transformers import Notebook, Transformers

    return Notebook() if name == "notebook" else Transformers()


def text_peer(system: str) -> TextPeer:
    """Build a text encoder by its name with precision.

    Raises:
        SettingsError: There is no such system.
    """
    name, precision = split_name(system)
    if precision not in TEXT_PRECISIONS.get(name, ()):
        raise SettingsError(f"text encoder {system!r} is unknown")
    if name == "earsight":
        from bench.peers.earsight import EarsightText

        return EarsightText(precision)
    from bench.peers.clip_text import OptimumText, TorchText

    return TorchText() if name == "transformers" else OptimumText()
