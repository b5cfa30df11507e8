"""`MultimodalASR`: the public face. Audio and a picture in, the text that fits both out."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.audio.load import AudioSource, load_audio
from runtime.audio.segmentation import DEFAULT_PAUSE_S
from runtime.bundle.bundle import Bundle
from runtime.clip.cache import find_embedding, load_image_cache
from runtime.clip.encoders import ImageEncoder, TextEncoder
from runtime.clip.pictures import ImageSource
from runtime.errors import ImageCacheError, ImageNotFoundError, SettingsError
from runtime.fusion import alphas_from, checked_alpha, normalize_transcript, rank, to_caption_style
from runtime.fusion_settings import FusionSettings, confidence_features
from runtime.recognizer import RecognisedSegment, Recognizer
from runtime.results import (
    Hypothesis,
    RescoredHypothesis,
    SegmentTranscription,
    Transcription,
    join_hypotheses,
    join_rescored,
    joined_text,
)
from runtime.sessions.factory import SessionFactory, SessionSettings
from runtime.sessions.opening import default_precision, open_sessions
from runtime.speech_gate.gate import DEFAULT_GATE, SpeechGate, dropped_warning
from runtime.speech_gate.repetition import loop_warning
from runtime.whisper.beam_settings import BeamSearchSettings, Distinct
from runtime.whisper.language_names import AUTO
from runtime.whisper.model import WhisperModel
from runtime.whisper.short_encoder import Window

logger = logging.getLogger(__name__)

Embedding = NDArray[np.float32]
ImageCache = Mapping[str, Embedding]


class MultimodalASR:
    """Whisper n-best recognition, rescored by CLIP against a picture.

    Args:
        bundle: A bundle folder, or an opened `Bundle`.
        alpha: Weight of the picture in `score = (1 - alpha) * P_ASR + alpha * P_CLIP`, in [0, 1]; None for
            that of `fusion`, or 0.3.
        fusion: How to fuse, as it was tuned: `fusion.json`, written by `python -m bench tune`.
        num_beams: Beams of the search.
        num_hypotheses: Length of the n-best list, 1 to `num_beams`; None for `num_beams`.
        image_cache: Embeddings by key, or the .npz file that holds them.
        language: Language code ("en", "en-US") or name; None and "auto" take the checkpoint's own, else it is
            detected. English-only checkpoints take None or "en".
        precision: "fp32", "int8", "fp16" or "bf16"; None for int8 on a CPU, fp16 on a GPU and bf16 with
            OpenVINO where the bundle has it, else fp32.
        providers: "cpu", "cuda", "tensorrt", "openvino", or several in order of preference; None for the
            best that works.
        threads: Threads of one ONNX Runtime operator; None for all physical cores.
        sessions: What opens the graphs, in place of `providers` and `threads`: `open_sessions` makes it with
            every setting (device, engines, TF32, GPU memory).
        max_new_tokens: Most tokens of a hypothesis, end-of-text included; None for as many as
            `tokens_per_second` and the checkpoint allow. Scores are means per token and reward endless
            repetition: a bound that suits the utterances keeps a weak checkpoint from it.
        tokens_per_second: Most tokens that a second of sound adds to 40, where `max_new_tokens` is None; None
            for 20 of English and 80 of other languages, far above all speech; inf for what the checkpoint
            allows.
        fixed_steps: Decode in fixed shapes, recorded as CUDA graphs on a GPU; the bundle must have been
            exported with `--fixed-steps`.
        window: How much of the encoder's window is computed: "full"; "fast", what speech needs where that is
            less; "auto", "fast" where the bundle measured at export that it costs no more than it may.
        distinct: What the hypotheses of a list differ in: "tokens", as in transformers, where half of a list
            is punctuation; or "words", so that each says something else. None for that of `fusion`, or
            "tokens".
        speech_gate: When `transcribe` gives no text because there is no speech; None to believe all text.
        pause_s: Shortest pause that ends a segment of a recording longer than the window, in seconds.

    Raises:
        SettingsError: A setting is out of range.
        BundleError: The bundle cannot be used.
        ProviderError: The provider cannot be used.
        ImageCacheError: The cache cannot be used.
    """

    def __init__(
        self,
        bundle: str | PathLike[str] | Bundle,
        *,
        alpha: float | None = None,
        fusion: str | PathLike[str] | FusionSettings | None = None,
        num_beams: int = 5,
        num_hypotheses: int | None = None,
        image_cache: str | PathLike[str] | ImageCache | None = None,
        language: str | None = None,
        precision: str | None = None,
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
        sessions: SessionFactory | None = None,
        max_new_tokens: int | None = None,
        tokens_per_second: float | None = None,
        fixed_steps: bool = False,
        window: Window = "full",
        distinct: Distinct | None = None,
        speech_gate: SpeechGate | None = DEFAULT_GATE,
        pause_s: float = DEFAULT_PAUSE_S,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.fusion = self._open_fusion(fusion, distinct)
        self.alpha = self.fusion.alpha if alpha is None else checked_alpha(alpha)
        self.search = BeamSearchSettings(
            num_beams=num_beams,
            num_hypotheses=num_hypotheses,
            max_new_tokens=max_new_tokens,
            distinct=self.fusion.distinct if distinct is None else distinct,
        )
        if sessions is not None and (providers is not None or threads is not None):
            raise SettingsError(
                "providers and threads are settings of the sessions, which were given as well"
            )
        self.sessions = sessions or open_sessions(
            self.bundle,
            providers=providers,
            precision=precision,
            settings=SessionSettings(threads=threads),
        )
        self.precision = precision or default_precision(self.bundle, self.sessions.choice)
        model = WhisperModel
        if fixed_steps:
            from runtime.whisper.fixed_decoder import FixedWhisperModel

            model = FixedWhisperModel
        self.whisper = model.of_bundle(self.bundle, self.precision, self.sessions, window)
        self.text_encoder = TextEncoder(self.bundle, self.precision, self.sessions)
        self.image_encoder = ImageEncoder(self.bundle, self.precision, self.sessions)
        if isinstance(language, str) and language.strip().lower() == AUTO:
            language = None
        self.language = language
        self.recognizer = Recognizer(
            self.whisper, self.search, language, speech_gate, pause_s, tokens_per_second
        )
        self.image_embeddings: ImageCache = self._open_cache(image_cache)

    # -- speech ---------------------------------------------------------------------------------------------

    def generate_nbest(self, audio: AudioSource, sr: int = 16000) -> list[Hypothesis]:
        """Recognise one utterance.

        Args:
            audio: Waveform (samples,) or (samples, channels), a path, bytes, or an open file. If it is longer
                than the model's window, the list holds the best ways of joining those of its segments.
            sr: Sampling rate of a waveform; files carry their own.

        Returns:
            Distinct hypotheses, best first, whether or not there is speech.

        Raises:
            AudioError: The audio cannot be used.
        """
        return self.generate_nbest_batch([audio], sr)[0]

    def generate_nbest_batch(self, audios: Sequence[AudioSource], sr: int = 16000) -> list[list[Hypothesis]]:
        """Recognise several utterances together; the lists are the same as one by one."""
        waveforms = [load_audio(audio, sr, self.recognizer.sampling_rate) for audio in audios]
        window = self.whisper.features.n_samples
        fitting = [waveform for waveform in waveforms if waveform.size <= window]
        together = iter(self.recognizer.nbest(fitting) if fitting else [])
        return [
            next(together) if waveform.size <= window else self.recognizer.long_nbest(waveform)
            for waveform in waveforms
        ]

    # -- pictures and texts ---------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str]) -> Embedding:
        """Encode texts as they are into float32 (n, d) of unit norm."""
        return self.text_encoder(texts)

    def encode_images(self, images: Sequence[ImageSource]) -> Embedding:
        """Encode pictures into float32 (n, d) of unit norm."""
        return self.image_encoder(images)

    def clip_similarity(self, image_embedding: ArrayLike, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the cosine of one picture with each text, float32 (n,).

        Args:
            image_embedding: Unit-norm embedding (d,) or (1, d).
            texts: n texts, as CLIP shall see them.

        Raises:
            SettingsError: The embedding has another size than this bundle's.
        """
        embedding = np.asarray(image_embedding, dtype=np.float32).reshape(-1)
        if embedding.size != self.text_encoder.dimension:
            raise SettingsError(
                f"the image embedding has {embedding.size} values, this bundle's CLIP "
                f"{self.text_encoder.dimension}; write the cache again with `python -m runtime embed-images`"
            )
        similarity: NDArray[np.float32] = self.encode_texts(texts) @ embedding
        return similarity

    def rescore(
        self,
        hypotheses: Sequence[Hypothesis],
        image_embedding: ArrayLike,
        alpha: float | None = None,
        caption_style: bool = True,
    ) -> list[RescoredHypothesis]:
        """Fuse ASR and CLIP scores.

        Args:
            hypotheses: An n-best list.
            image_embedding: Unit-norm embedding of the picture, (d,).
            alpha: Weight of the picture; None for the pipeline's own.
            caption_style: Whether CLIP sees `to_caption_style` or only `normalize_transcript` of the texts.

        Returns:
            The hypotheses by fused score, best first; equal scores keep their order.
        """
        alpha = self.alpha if alpha is None else checked_alpha(alpha)
        style = to_caption_style if caption_style else normalize_transcript
        return self.rescore_with_confidence(hypotheses, image_embedding, alpha, style)[0]

    def rescore_with_confidence(
        self,
        hypotheses: Sequence[Hypothesis],
        image_embedding: ArrayLike,
        alpha: float,
        style: Callable[[str], str] = to_caption_style,
    ) -> tuple[list[RescoredHypothesis], float | None]:
        """Return the fused list, and how sure its first text is; None without calibration for this alpha."""
        if not hypotheses:
            return [], None
        cosines = self.clip_similarity(image_embedding, [style(hypothesis.text) for hypothesis in hypotheses])
        asr_scores = self._asr_scores(hypotheses)
        scores = self.fusion.fuse(asr_scores, cosines, alpha)
        first_from = alphas_from(scores)
        rescored = [
            RescoredHypothesis(
                text=hypotheses[i].text,
                asr_score=float(scores.asr[i]),
                clip_score=float(cosines[i]),
                fused_score=float(scores.fused[i]),
                display=hypotheses[i].display,
                score=hypotheses[i].score,
                tokens=hypotheses[i].tokens,
                rank_without_picture=int(i),
                alpha_from=first_from[i],
            )
            for i in rank(scores.fused)
        ]
        calibrated = self.fusion.confidence if alpha == self.fusion.alpha else None
        if calibrated is None:
            return rescored, None
        return rescored, calibrated.probability(confidence_features(asr_scores, scores))

    def image_embedding(
        self, image_id: str | None = None, image_path: ImageSource | None = None
    ) -> tuple[Embedding | None, str | None]:
        """Find a picture in the cache, else encode it.

        Returns:
            The embedding (d,) and None, or None and the reason why there is no such picture.

        Raises:
            ImageError: The file exists but is no usable picture.
        """
        if image_id is not None:
            known = find_embedding(self.image_embeddings, image_id)
            if known is not None:
                return known, None
        if image_path is not None:
            try:
                return self.encode_images([image_path])[0], None
            except ImageNotFoundError:
                logger.warning("picture %s does not exist", image_path)
        return None, f"Image not found (id={image_id}, path={image_path!s})"

    # -- all together ---------------------------------------------------------------------------------------

    def transcribe(
        self,
        audio: AudioSource,
        image_id: str | None = None,
        image_path: ImageSource | None = None,
        sr: int = 16000,
        alpha: float | None = None,
        *,
        truncate: bool = False,
    ) -> Transcription:
        """Recognise a recording, with the picture that it describes where there is one.

        A recording longer than the model's window is split at its pauses; every segment is recognised and
        rescored by itself. Where there is no speech, the transcription is empty and `no_speech` says why.

        Args:
            audio: Waveform, path, bytes, or open file.
            image_id: Key of the image cache.
            image_path: Picture file; used where the cache does not have `image_id`.
            sr: Sampling rate of a waveform.
            alpha: Weight of the picture; None for the pipeline's own.
            truncate: Recognise the beginning that fits the window and warn, instead of splitting.

        Returns:
            The transcription; a named picture that does not exist gives a warning in it and mode "asr_only".

        Raises:
            AudioError: The audio cannot be used.
            ImageError: The picture exists but cannot be used.
            SettingsError: `alpha` is out of [0, 1].
        """
        alpha = self.alpha if alpha is None else checked_alpha(alpha)
        embedding, missing = None, None
        if image_id is not None or image_path is not None:
            embedding, missing = self.image_embedding(image_id, image_path)
        recognised, cut = self._recognise(audio, sr, truncate)
        segments = [self.fuse_segment(segment, embedding, alpha) for segment in recognised]
        warning = "; ".join(warning for warning in (missing, cut) if warning) or None
        return self.join_segments(segments, None if embedding is None else alpha, warning)

    def join_segments(
        self,
        segments: Sequence[SegmentTranscription],
        alpha: float | None,
        warning: str | None = None,
        count: int | None = None,
    ) -> Transcription:
        """Make the answer to a recording of those to its segments.

        Args:
            segments: In order, as `fuse_segment` makes them.
            alpha: Weight that the picture had; None where none took part.
            warning: What did not take part.
            count: Length of the joined list; None for that of the search.
        """
        lists: list[Any] = [segment.hypotheses for segment in segments]
        told = (warning, loop_warning(segments), dropped_warning(segments))
        join = join_hypotheses if alpha is None else join_rescored
        return Transcription(
            transcription=joined_text([segment.transcription for segment in segments]),
            hypotheses=join(lists, count or self.search.count),
            mode="asr_only" if alpha is None else "multimodal",
            alpha=alpha,
            warning="; ".join(filter(None, told)) or None,
            segments=segments,
        )

    def _recognise(
        self, audio: AudioSource, sr: int, truncate: bool
    ) -> tuple[Iterator[RecognisedSegment], str | None]:
        """Return the segments, recognised as they are asked for, and a warning of what was cut off."""
        if not truncate:
            return self.recognizer.segments(audio, sr), None
        beginning, seconds = self.recognizer.beginning(audio, sr)
        lost = seconds - beginning.end_s
        warning = (
            f"Truncated: the last {lost:.2f} of {seconds:.2f} s were not recognised" if lost > 0 else None
        )
        return iter([beginning]), warning

    def fuse_segment(
        self, segment: RecognisedSegment, embedding: Embedding | None, alpha: float
    ) -> SegmentTranscription:
        """Choose the text of a segment.

        Args:
            segment: As the recogniser returns it.
            embedding: Unit-norm embedding of the picture, (d,); None takes the most probable text.
            alpha: Weight of the picture.
        """
        candidates: list[Hypothesis] | list[RescoredHypothesis] = segment.hypotheses
        confidence = None
        if embedding is not None:
            candidates, confidence = self.rescore_with_confidence(segment.hypotheses, embedding, alpha)
        return SegmentTranscription(
            start_s=segment.start_s,
            end_s=segment.end_s,
            transcription=candidates[0].text if candidates else "",
            hypotheses=candidates,
            no_speech_prob=segment.no_speech_prob,
            no_speech=segment.no_speech,
            confidence=confidence,
            language=segment.language,
        )

    def _asr_scores(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return the scores that the fusion was tuned on."""
        if self.fusion.asr_score == "mean":
            return [hypothesis.score for hypothesis in hypotheses]
        if not all(hypothesis.tokens for hypothesis in hypotheses):
            raise SettingsError(
                "the fusion was tuned on sums of log-probabilities, and a hypothesis has no tokens; give "
                "hypotheses of generate_nbest, or tune with --asr-score mean"
            )
        return [hypothesis.score * len(hypothesis.tokens) for hypothesis in hypotheses]

    def _open_fusion(
        self, fusion: str | PathLike[str] | FusionSettings | None, distinct: Distinct | None
    ) -> FusionSettings:
        if fusion is None:
            return FusionSettings()
        settings = fusion if isinstance(fusion, FusionSettings) else FusionSettings.load(fusion)
        tuned_with = (settings.bundle or {}).get("sha256")
        if tuned_with is not None and tuned_with != self.bundle.digest:
            logger.warning(
                "the fusion was tuned with another bundle (%s, %s…) than this (%s, %s…): its weights may not "
                "fit; tune again with `python -m bench tune`",
                (settings.bundle or {}).get("name"),
                str(tuned_with)[:12],
                self.bundle.name,
                self.bundle.digest[:12],
            )
        if distinct is not None and distinct != settings.distinct:
            logger.warning(
                "the fusion was tuned on lists that differ in %s; these differ in %s",
                settings.distinct,
                distinct,
            )
        return settings

    def _open_cache(self, cache: str | PathLike[str] | ImageCache | None) -> ImageCache:
        if cache is None:
            return {}
        embeddings = cache if isinstance(cache, Mapping) else load_image_cache(Path(cache))
        for key, embedding in embeddings.items():
            if np.size(embedding) != self.image_encoder.dimension:
                raise ImageCacheError(
                    f"the image cache holds {np.size(embedding)} values for {key!r}, this bundle's CLIP "
                    f"makes {self.image_encoder.dimension}; write the cache again with "
                    "`python -m runtime embed-images`"
                )
        return embeddings
