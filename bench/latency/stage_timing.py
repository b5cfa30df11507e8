"""Where the time of one utterance goes: the stages of `MultimodalASR.transcribe`, called one by one."""

from collections.abc import Sequence
from pathlib import Path

from bench.manifest import Utterance
from bench.measure.timing import Stopwatch
from bench.peers.earsight import TimedSession, add_decoding_stages
from runtime.audio.files import open_audio
from runtime.audio.load import load_audio
from runtime.clip.cache import find_embedding
from runtime.fusion import fuse, rank, to_caption_style
from runtime.pipeline import MultimodalASR
from runtime.whisper.language_names import language_code

# In the order of the data, as the report lists them.
STAGES = (
    "load",
    "resample",
    "log_mel",
    "encoder",
    "language",
    "prompt",
    "step",
    "bookkeeping",
    "image",
    "text",
    "fusion",
    "whole",
)


class StageTimer:
    """Times whole transcriptions and, in calls of their own, their stages.

    Args:
        asr: The pipeline; its decoder session is wrapped while stages are timed.
        watch: Takes the latencies.
    """

    def __init__(self, asr: MultimodalASR, watch: Stopwatch) -> None:
        self._asr = asr
        self._watch = watch

    def whole(self, utterance: Utterance) -> None:
        """Time one transcription from file to text."""
        with self._watch.lap("whole"):
            self._asr.transcribe(utterance.audio, image_id=utterance.image_id, image_path=utterance.image)

    def stages(self, utterance: Utterance) -> None:
        """Time every stage of one transcription."""
        asr, watch = self._asr, self._watch
        features = asr.whisper.features
        with open_audio(utterance.audio) as file:
            rate = file.rate
        with watch.lap("load"):
            recorded = load_audio(utterance.audio, target_rate=rate)
        with watch.lap("resample"):
            waveform = load_audio(recorded, rate, features.sampling_rate)
        with watch.lap("log_mel"):
            log_mel = features([waveform])
        with watch.lap("encoder"):
            cross = asr.whisper.encode(log_mel, asr.whisper.leading_positions(waveform.size))
        language, task = asr.language, None
        if language is None and asr.whisper.tokens.detects_language:
            with watch.lap("language"):
                languages = asr.whisper.first_position(cross).languages
            language = languages[0] if languages else None
            task = asr.whisper.tokens.defaults.task
        prompts = [asr.whisper.tokens.prompt(language, task)]
        session = asr.whisper.decoder
        timed = TimedSession(session)
        asr.whisper.decoder = timed
        try:
            decoding = Stopwatch()
            with decoding.lap("decoding"):
                most = asr.recognizer.most_tokens([waveform.size], [language and language_code(language)])
                (finished,) = asr.whisper.nbest(cross, prompts, asr.search, most_tokens=most)
        finally:
            asr.whisper.decoder = session
        add_decoding_stages(watch, timed.raw, decoding.raw("decoding")[0])
        texts = [asr.whisper.tokens.decode(entry.tokens).strip().lower() for entry in finished]
        self._rescoring(utterance, texts, [entry.score for entry in finished])

    def _rescoring(self, utterance: Utterance, texts: Sequence[str], scores: Sequence[float]) -> None:
        """Time picture, texts and fusion, where there is a picture."""
        asr, watch = self._asr, self._watch
        embedding = find_embedding(asr.image_embeddings, utterance.image_id or "")
        if not texts or (utterance.image is None and embedding is None):
            return
        if embedding is None:
            with watch.lap("image"):
                (embedding,) = asr.encode_images([Path(str(utterance.image))])
        with watch.lap("text"):
            cosines = asr.clip_similarity(embedding, [to_caption_style(text) for text in texts])
        with watch.lap("fusion"):
            rank(fuse(scores, cosines, asr.alpha).fused)
