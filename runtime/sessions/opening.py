"""The sessions of a bundle: provider, precision and engines, chosen together."""

from collections.abc import Sequence

from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import GRAPH_FOLDERS
from runtime.sessions.choice import Provider, select_provider
from runtime.sessions.cuda_driver import Gpu
from runtime.sessions.factory import SessionFactory, SessionSettings
from runtime.sessions.machine import Machine
from runtime.sessions.tensorrt.engines import ENGINE_FOLDER, EngineSettings, plan_engine


def open_sessions(
    bundle: Bundle,
    *,
    providers: str | Sequence[str] | None = None,
    device_id: int = 0,
    precision: str | None = None,
    settings: SessionSettings | None = None,
    machine: Machine | None = None,
) -> SessionFactory:
    """Choose where a bundle runs.

    Args:
        bundle: Which one.
        providers: "cpu", "cuda", "tensorrt", "openvino", or several in order of preference; None for the best
            that works: TensorRT where engines of this bundle are built for the GPU, else CUDA, else OpenVINO
            where the bundle has bf16 and the processor AMX, else the CPU.
        device_id: Number of the GPU, where one is used.
        precision: Of the graphs; None for `default_precision`.
        settings: How sessions are opened.
        machine: The facts to decide on; read from this machine when left out.

    Returns:
        What opens the bundle's graphs.

    Raises:
        SettingsError: A name is unknown, the list is empty, or there is no GPU of that number.
        ProviderError: Nothing of what was asked for runs here.
    """
    settings = settings or SessionSettings()
    wanted = precision or default_precision(bundle, Provider("cuda"))
    bf16 = "bf16" in bundle.precisions and precision in (None, "bf16")

    def built(gpu: Gpu, tensorrt: str) -> bool:
        return all(
            plan_engine(graph, settings.engines, gpu, tensorrt).is_built for graph in bundle.graphs(wanted)
        )

    # Most bundles have no engines and most machines no TensorRT: then it is not even looked for.
    automatic = providers is None and wanted != "int8" and _has_engine_folder(bundle, settings.engines)
    choice = select_provider(
        providers, device_id=device_id, machine=machine, engines=built if automatic else None, bf16=bf16
    )
    return SessionFactory(choice, settings)


def _has_engine_folder(bundle: Bundle, engines: EngineSettings) -> bool:
    """Whether there may be engines: a look at folders, which reads no graph."""
    beside = (bundle.folder / place / ENGINE_FOLDER for place in set(GRAPH_FOLDERS.values()))
    return any(folder.is_dir() for folder in ([engines.folder] if engines.folder else beside))


def default_precision(bundle: Bundle, provider: Provider) -> str:
    """Choose what is fastest on the provider among what the bundle has."""
    fastest = {"cpu": "int8", "openvino": "bf16" if provider.bf16 else "fp32"}
    preferred = fastest.get(provider.name, "fp16")
    return preferred if preferred in bundle.precisions else bundle.precisions[0]
