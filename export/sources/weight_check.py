"""Whether `from_pretrained` found every weight where the model has one, and nothing but numbers in them.

transformers leaves weights that it does not find at random and goes on; a bundle of such a model is useless.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from transformers import WhisperForConditionalGeneration

from runtime.errors import CheckpointError

SHOWN: Final = 3
IGNORABLE: Final = "position_ids"  # older versions of transformers wrote them, newer ones compute them
OUTPUT: Final = "proj_out.weight"  # of Whisper; tied to the embedding as a rule
# What the weights' names tell about how they were saved, and the mend.
MERGE: Final = (
    "merge the adapter first: `PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(folder)`"
)
SIGNS: Final = (
    ("lora_", f"an adapter that was not merged; {MERGE}"),
    ("base_model.model.", f"a model inside PEFT; {MERGE}"),
    (
        "module.",
        "a model inside DistributedDataParallel; save the inner one: `model.module.save_pretrained(folder)`",
    ),
    (
        "_orig_mod.",
        "a model inside torch.compile; save the inner one: `model._orig_mod.save_pretrained(folder)`",
    ),
)


def require_fitting_names(
    name: str, model: torch.nn.Module, info: Mapping[str, Any], output_is_tied: bool = False
) -> None:
    """Refuse weights that are missing, left over or of another shape.

    Args:
        name: Of the checkpoint, for messages.
        model: As loaded.
        info: What `from_pretrained(…, output_loading_info=True)` returns beside the model.
        output_is_tied: Whether Whisper's output layer may be missing, its embedding being it.

    Raises:
        CheckpointError: Names the first weights, how many there are, and the mend.
    """
    missing, unexpected = (_names(info.get(key, ())) for key in ("missing_keys", "unexpected_keys"))
    if output_is_tied:
        missing = [key for key in missing if key != OUTPUT]
    shapes = {key: tuple(weight.shape) for key, weight in model.state_dict().items()}
    mismatched = [f"{key}, expected {shapes[key]}" for key in sorted(info.get("mismatched_keys", ()))]
    faults = [
        f"{len(found)} {what} ({_first(found)})"
        for found, what in ((missing, "missing"), (unexpected, "unknown"), (mismatched, "of another shape"))
        if found
    ]
    if not faults:
        return
    mend = next((mend for sign, mend in SIGNS if any(_has(sign, key) for key in unexpected)), None)
    if missing == [OUTPUT]:
        mend = (
            "a model without its output layer; if the embedding is the output layer, set "
            '"tie_word_embeddings": true in config.json'
        )
    meaning = f"this is {mend}" if mend else "save the whole model again: `model.save_pretrained(folder)`"
    raise CheckpointError(
        f"{name}: of the weights that config.json asks for, or that are there, {', '.join(faults)}; {meaning}"
    )


def tie_output(name: str, model: WhisperForConditionalGeneration, has_output: bool) -> None:
    """Make the embedding the output layer, as `config.json` says.

    Args:
        name: Of the checkpoint, for messages.
        model: As loaded, not tied.
        has_output: Whether the checkpoint holds an output layer, too.

    Raises:
        CheckpointError: It does, and it differs from the embedding: transformers would drop it.
    """
    if has_output and not torch.equal(model.proj_out.weight, model.model.decoder.embed_tokens.weight):
        raise CheckpointError(
            f"{name}: {OUTPUT} differs from the embedding, and config.json says that they are one: if it was "
            'trained, set "tie_word_embeddings": false in config.json; if not, leave it out of the weights'
        )
    model.config.tie_word_embeddings = True
    model.tie_weights()


def require_finite(name: str, model: torch.nn.Module) -> None:
    """Refuse weights that are no numbers.

    Raises:
        CheckpointError: Names the first of them and how many there are.
    """
    broken = [key for key, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise CheckpointError(
            f"{name}: {len(broken)} weights hold NaN or infinity ({_first(broken)}): training diverged, or "
            "they left the range of float16; go back to an earlier checkpoint, or save in float32"
        )


def _names(keys: Any) -> list[str]:
    return sorted(key for key in keys if not key.endswith(IGNORABLE))


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _has(sign: str, key: str) -> bool:
    return sign in key if sign == "lora_" else key.startswith(sign)
