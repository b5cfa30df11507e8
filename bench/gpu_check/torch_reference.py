"""PyTorch in float16 on the same GPU: what the project's GPU figures are compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu_check.measurements import Work
from bench.latency.architecture import short_captions, tokenize
from bench.measure.timing import Stopwatch
from bench.peers.clip_text import padded


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


def measure_mixin(checkpoint: Path, work: Work, batches: Sequence[int]) -> dict[int, list[float]]:
    """Time the n-best search of transformers: the mixin's `generate` in float16, encoder included.

    Args:
        checkpoint: Whisper checkpoint folder.
        work: What is measured.
        batches: Numbers of utterances.

    Returns:
        For every batch the raw seconds.
    """
    import torch
    from transformers import WhisperForConditionalGeneration

    load = WhisperForConditionalGeneration.from_pretrained
    model = load(checkpoint, dtype=torch.float16, local_files_only=True).eval().to("cuda")
    raw: dict[int, list[float]] = {}
    for batch in batches:
        inputs = torch.from_numpy(work.features(batch)).to("cuda", torch.float16)
        watch = Stopwatch(discard=work.warm_up)
        for _ in range(work.warm_up + work.rounds):
            torch.cuda.synchronize()
            with torch.inference_mode(), watch.lap("whole"):
                _generate(model, inputs, work)
                torch.cuda.synchronize()
        raw[batch] = watch.raw("whole")
    del model
    torch.cuda.empty_cache()
    return raw


def _generate(model: Any, inputs: Any, work: Work) -> Any:
    import torch
    from transformers.generation import GenerationMixin

    workload = work.workload
    return GenerationMixin.generate(
        model,
        encoder_outputs=model.get_encoder()(inputs),
        decoder_input_ids=torch.tensor([list(workload.prompt)] * len(inputs), device=inputs.device),
        num_beams=workload.beams,
        num_return_sequences=workload.beams,
        min_new_tokens=workload.steps,
        max_new_tokens=workload.steps,
        return_dict_in_generate=True,
        output_scores=True,
    )


def measure_torch_texts(checkpoint: Path, work: Work, counts: Sequence[int]) -> dict[int, list[float]]:
    """Time CLIP's text encoder in float16, given token ids; the result is copied to the host.

    Args:
        checkpoint: CLIP checkpoint folder.
        work: What is measured.
        counts: Numbers of texts.

    Returns:
        For every number of texts the raw seconds.
    """
    import torch
    from transformers import CLIPTextModelWithProjection

    load = CLIPTextModelWithProjection.from_pretrained
    model = load(checkpoint, dtype=torch.float16, local_files_only=True).eval().to("cuda")
    raw: dict[int, list[float]] = {}
    for count in counts:
        tokens = tokenize(work.bundle, short_captions(count, work.seed))
        inputs = [torch.from_numpy(array) for array in padded(tokens, None, model.config.eos_token_id)]
        watch = Stopwatch(discard=work.warm_up)
        for _ in range(work.warm_up + work.rounds):
            with torch.inference_mode(), watch.lap("whole"):
                ids, mask = (tensor.to("cuda") for tensor in inputs)
                embeddings = model(input_ids=ids, attention_mask=mask).text_embeds
                (embeddings / embeddings.norm(dim=-1, keepdim=True)).float().cpu()
        raw[count] = watch.raw("whole")
    del model
    torch.cuda.empty_cache()
    return raw
