"""What the commands of this package share: quiet libraries, and the last word about a bundle."""

import logging

from runtime.bundle.bundle import Bundle


def quieten_libraries() -> None:
    """Silence what transformers, optimum and torch have to say; warnings of this package are heard."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("optimum", "torch.onnx", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("export", "runtime", "bench"):  # "root" above would have them silent
        logging.getLogger(name).setLevel(logging.WARNING)


def outcome(bundle: Bundle, written: bool) -> str:
    """Return what was written and how far it is from PyTorch, or that there was nothing to do."""
    if not written:
        return f"{bundle.folder} is up to date"
    size = sum(entry["bytes"] for entry in bundle.manifest["files"].values())
    lines = [f"{bundle.folder}: {len(bundle.manifest['files'])} files, {size / 1e6:.1f} MB"]
    lines.append(f"{'against PyTorch':<45}{'relative error':>16}{'at most':>12}{'largest error':>16}")
    lines += [
        f"{precision:<5} {item['output']:<39}{item['relative']:>16.2e}"
        f"{item['tolerance']:>12g}{item['largest']:>16.2e}"
        for precision, differences in bundle.manifest["parity"].items()
        for item in differences
    ]
    return "\n".join(lines)
