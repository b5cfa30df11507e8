"""What a run of `python -m bench nbest` cost, as the plan of larger runs takes it (`--record`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.measure.system_info import system_info
from runtime.bundle.json_files import parse_json
from runtime.errors import SettingsError
from runtime.files.write_whole import write_json

SCHEMA: Final = "earsight.nbest-run/1"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

    Attributes:
        header: Bundle and settings of the n-best file.
        crew: "in process", "workers" or "ray".
        workers: Processes that recognised.
        threads: Threads of each; None where onnxruntime chose.
        rows: Rows of the manifest.
        utterances: Rows that this run recognised.
        speech_s: Their length, seconds.
        audio_bytes: Size of their recordings.
        output_bytes: Size of the n-best file.
        wall_s: Seconds from the start to the last line of the file.
        start_s: Those until the first pipeline was open: manifest read, processes or cluster started.
        work_s: Seconds within recognition, summed over processes.
        cpu_s: Seconds of processor within recognition, summed over processes.
        driver_cpu_s: Those of the process that writes the file, from then on; with them where it recognises.
        peak_memory_bytes: Largest resident set of a process that recognised.
        driver_memory_bytes: Largest resident set of the process that writes the file.
        cpu: The processor.
    """

    header: Mapping[str, Any]
    crew: str
    workers: int
    threads: int | None
    rows: int
    utterances: int
    speech_s: float
    audio_bytes: int
    output_bytes: int
    wall_s: float
    start_s: float
    work_s: float
    cpu_s: float
    driver_cpu_s: float
    peak_memory_bytes: int
    driver_memory_bytes: int
    cpu: str

    def write(self, path: Path) -> None:
        """Write the record, with the system that it was taken on.

        Raises:
            OutputError: The file cannot be written.
        """
        write_json(path, {"schema": SCHEMA, **asdict(self), "system": system_info()})

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read a record.

        Raises:
            SettingsError: It is none, or a value is missing or of another type.
        """
        try:
            row = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: no record of a run ({error}); write one with --record") from error
        if not isinstance(row, dict) or row.get("schema") != SCHEMA:
            raise SettingsError(f"{path}: no record of {SCHEMA}; write one with `bench nbest --record`")
        for name, kind in cls.__annotations__.items():
            if not _is(row.get(name), kind):
                raise SettingsError(f"{path}: {name} is {row.get(name)!r}; write the record again")
        return cls(**{name: row[name] for name in cls.__annotations__})


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON file is what a field takes: counts and seconds are numbers from 0 on."""
    if kind in (int, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if kind == int | None:
        return value is None or _is(value, int)
    return isinstance(value, str if kind is str else dict)
