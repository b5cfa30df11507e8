"""PyTorch in float16 on the same GPU: what the project's GPU figures are compared with."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.gpu_check.measurements import Raw, Work, whole_seconds
from bench.latency.architecture import short_captions, tokenize
from bench.measure.timing import ratio_of_medians
from bench.peers.clip_text import padded
from bench.peers.transformers import mixin_generate

# How much faster than transformers' float16 n-best on the same GPU, by batch, for whisper-small.
WANTED_RATIOS: Final = {1: 3.0, 16: 2.0}


def torch_obstacle() -> str | None:
    """Return why PyTorch cannot use the GPU; None where it can."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} does not see the GPU"
    return None


def compare_with_torch(
    work: Work, whisper: Path | None, clip: Path | None, speech: Sequence[Mapping[str, Any]], texts: Raw
) -> dict[str, Any]:
    """Measure PyTorch beside what was measured of this project.

    Args:
        work: What is measured.
        whisper: Whisper checkpoint folder.
        clip: CLIP checkpoint folder.
        speech: Entries of `measure_speech`; those of other precisions than fp16 are passed over.
        texts: Raw seconds of CLIP's text encoder by number of texts.

    Returns:
        `left_out`, the reason where nothing was measured; `ratios` of PyTorch's time over this project's
        (above 1 is faster here); `raw_s`, PyTorch's seconds of the n-best search by batch.
    """
    obstacle = torch_obstacle()
    if obstacle or whisper is None or clip is None:
        return {"left_out": obstacle or "no checkpoints were given (--whisper, --clip)"}
    searches = _search_seconds(whisper, work, list(dict.fromkeys(entry["batch"] for entry in speech)))
    ratios = []
    for entry in speech:
        if entry["precision"] == "fp16":
            batch, ours = entry["batch"], whole_seconds(entry["stages"])
            wanted = WANTED_RATIOS.get(batch)
            ratios.append(_ratio(f"n-best, batch {batch}", searches[str(batch)], ours, wanted))
    for count, raw in _text_seconds(clip, work, [int(count) for count in texts]).items():
        ratios.append(_ratio(f"CLIP text, {count}", raw, texts[count]))
    return {"left_out": None, "ratios": ratios, "raw_s": searches}


def _ratio(
    what: str, theirs: Sequence[float], ours: Sequence[float], wanted: float | None = None
) -> dict[str, Any]:
    ratio = ratio_of_medians(theirs, ours)
    passed = None if wanted is None else ratio.value >= wanted
    return {"what": what, **ratio.to_dict(), "wanted": wanted, "passed": passed}


def _search_seconds(checkpoint: Path, work: Work, batches: Sequence[int]) -> Raw:
    """Time the n-best search of transformers: the mixin's `generate` in float16, encoder included."""
    import torch
    from transformers import WhisperForConditionalGeneration

    model = _on_gpu(WhisperForConditionalGeneration, checkpoint)

    def search(inputs: torch.Tensor) -> None:
        mixin_generate(model, model.get_encoder()(inputs), len(inputs), work.workload)
        torch.cuda.synchronize()

    raw = {}
    for batch in batches:
        inputs = torch.from_numpy(work.features(batch)).to("cuda", torch.float16)
        torch.cuda.synchronize()
        with torch.inference_mode():
            raw[str(batch)] = work.timed(partial(search, inputs))
    return raw


def _text_seconds(checkpoint: Path, work: Work, counts: Sequence[int]) -> Raw:
    """Time CLIP's text encoder in float16, given token ids; the result is copied to the host."""
    import torch
    from transformers import CLIPTextModelWithProjection

    model = _on_gpu(CLIPTextModelWithProjection, checkpoint)

    def embed(inputs: list[torch.Tensor]) -> None:
        ids, mask = (tensor.to("cuda") for tensor in inputs)
        embeddings = model(input_ids=ids, attention_mask=mask).text_embeds
        (embeddings / embeddings.norm(dim=-1, keepdim=True)).float().cpu()

    raw = {}
    for count in counts:
        tokens = tokenize(work.bundle, short_captions(count, work.seed))
        inputs = [torch.from_numpy(array) for array in padded(tokens, None, model.config.eos_token_id)]
        with torch.inference_mode():
            raw[str(count)] = work.timed(partial(embed, inputs))
    return raw


def _on_gpu(kind: Any, checkpoint: Path) -> Any:
    """Load a checkpoint in float16, into the memory of the one before."""
    import torch

    torch.cuda.empty_cache()
    return kind.from_pretrained(checkpoint, dtype=torch.float16, local_files_only=True).eval().to("cuda")
