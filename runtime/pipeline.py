"""`MultimodalASR`: the public face. Audio and a picture in, the text that fits both out."""

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.audio import AudioSource, load_audio
from runtime.beam_search import FinishedHypothesis
from runtime.beam_settings import BeamSearchSettings
from runtime.bundle import Bundle
from runtime.clip import ImageEncoder, TextEncoder
from runtime.errors import ImageCacheError, ImageNotFoundError, SettingsError
from runtime.fusion import fuse, normalize_transcript, rank, to_caption_style
from runtime.image_cache import load_image_cache
from runtime.image_files import ImageSource
from runtime.providers import SessionFactory, SessionSettings, select_provider
from runtime.results import Hypothesis, RescoredHypothesis, Transcription
from runtime.static_step import StaticWhisperModel
from runtime.whisper import CrossAttention, WhisperModel

logger = logging.getLogger(__name__)

Embedding = NDArray[np.float32]
ImageCache = Mapping[str, Embedding]


class MultimodalASR:
    """Whisper n-best recognition, rescored by CLIP against a picture.

    Args:
        bundle: A bundle folder, or an opened `Bundle`.
        alpha: Weight of the picture in `score = (1 - alpha) * P_ASR + alpha * P_CLIP`, in [0, 1].
        num_beams: Beams of the search, and length of the n-best list.
        image_cache: Embeddings by key, or the .npz file that holds them.
        language: Language code or name; None detects it. English-only checkpoints take None or "en".
        precision: "fp32", "int8" or "fp16"; None for int8 on a CPU and fp16 on a GPU where the bundle
            has it, else fp32.
        providers: "cpu", "cuda", "tensorrt", or several in order of preference; None for the best that works.
        threads: Threads of one ONNX Runtime operator; None for all physical cores.
        max_new_tokens: Most tokens of a hypothesis, end-of-text included; None for what the checkpoint
            allows. Scores are means per token and reward endless repetition: a bound that suits the
            utterances keeps a weak checkpoint from it.
        static_steps: Decode in fixed shapes, recorded as CUDA graphs on a GPU; the bundle must have been
            exported with `--static-steps`.

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
        alpha: float = 0.3,
        num_beams: int = 5,
        image_cache: str | PathLike[str] | ImageCache | None = None,
        language: str | None = None,
        precision: str | None = None,
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
        max_new_tokens: int | None = None,
        static_steps: bool = False,
    ) -> None:
        self.alpha = checked_alpha(alpha)
        self.search = BeamSearchSettings(num_beams=num_beams, max_new_tokens=max_new_tokens)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.sessions = SessionFactory(select_provider(providers), SessionSettings(threads=threads))
        self.precision = precision or default_precision(self.bundle, self.sessions.device)
        model = StaticWhisperModel if static_steps else WhisperModel
        self.whisper = model.of_bundle(self.bundle, self.precision, self.sessions)
        self.text_encoder = TextEncoder(self.bundle, self.precision, self.sessions)
        self.image_encoder = ImageEncoder(self.bundle, self.precision, self.sessions)
        self.language = language
        if language is not None:
            self.whisper.tokens.prompt(language)  # refuses an unknown language now, not at the first request
        self.image_embeddings: ImageCache = self._open_cache(image_cache)

    # -- speech ---------------------------------------------------------------------------------------------

    def generate_nbest(self, audio: AudioSource, sr: int = 16000) -> list[Hypothesis]:
        """Recognise one utterance.

        Args:
            audio: Waveform (samples,) or (samples, channels), a path, bytes, or an open file.
            sr: Sampling rate of a waveform; files carry their own.

        Returns:
            Distinct hypotheses, best first.

        Raises:
            AudioError: The audio cannot be used, or is longer than the model's window.
        """
        return self.generate_nbest_batch([audio], sr)[0]

    def generate_nbest_batch(self, audios: Sequence[AudioSource], sr: int = 16000) -> list[list[Hypothesis]]:
        """Recognise several utterances together; the lists are the same as one by one."""
        if not audios:
            return []
        waveforms = [load_audio(audio, sr, self.whisper.features.sampling_rate) for audio in audios]
        cross = self.whisper.encode(self.whisper.features(waveforms))
        finished = self.whisper.nbest(cross, self._prompts(cross), self.search)
        return [self._readable(hypotheses) for hypotheses in finished]

    def _prompts(self, cross: CrossAttention) -> list[list[int]]:
        tokens = self.whisper.tokens
        if self.language is not None or not tokens.is_multilingual:
            return [tokens.prompt(self.language)] * cross.batch
        detected = self.whisper.first_position(cross).languages
        assert detected is not None  # a multilingual checkpoint has language tokens
        return [tokens.prompt(language) for language in detected]

    def _readable(self, finished: Sequence[FinishedHypothesis]) -> list[Hypothesis]:
        """Decode, strip, lower-case, drop later duplicates of a text, sort by score (stable)."""
        distinct: dict[str, Hypothesis] = {}
        for hypothesis in finished:
            text = self.whisper.tokens.decode(hypothesis.tokens).strip().lower()
            distinct.setdefault(text, Hypothesis(text, hypothesis.score, hypothesis.tokens))
        return sorted(distinct.values(), key=lambda hypothesis: -hypothesis.score)

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
        if not hypotheses:
            return []
        style = to_caption_style if caption_style else normalize_transcript
        cosines = self.clip_similarity(image_embedding, [style(hypothesis.text) for hypothesis in hypotheses])
        scores = fuse([hypothesis.score for hypothesis in hypotheses], cosines, alpha)
        return [
            RescoredHypothesis(
                text=hypotheses[i].text,
                asr_score=float(scores.asr[i]),
                clip_score=float(cosines[i]),
                fused_score=float(scores.fused[i]),
            )
            for i in rank(scores.fused)
        ]

    def image_embedding(
        self, image_id: str | None = None, image_path: ImageSource | None = None
    ) -> tuple[Embedding | None, str | None]:
        """Find a picture in the cache, else encode it.

        Returns:
            The embedding (d,) and None, or None and the reason why there is no such picture.

        Raises:
            ImageError: The file exists but is no usable picture.
        """
        if image_id is not None and image_id in self.image_embeddings:
            return self.image_embeddings[image_id], None
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
    ) -> Transcription:
        """Recognise an utterance, with the picture that it describes where there is one.

        Args:
            audio: Waveform, path, bytes, or open file.
            image_id: Key of the image cache.
            image_path: Picture file; used where the cache does not have `image_id`.
            sr: Sampling rate of a waveform.
            alpha: Weight of the picture; None for the pipeline's own.

        Returns:
            The transcription; a named picture that does not exist gives a warning in it and mode "asr_only".

        Raises:
            AudioError: The audio cannot be used.
            ImageError: The picture exists but cannot be used.
            SettingsError: `alpha` is out of [0, 1].
        """
        alpha = self.alpha if alpha is None else checked_alpha(alpha)
        hypotheses = self.generate_nbest(audio, sr)
        first = hypotheses[0].text if hypotheses else ""
        if image_id is None and image_path is None:
            return Transcription(first, hypotheses)
        embedding, reason = self.image_embedding(image_id, image_path)
        if embedding is None:
            return Transcription(first, hypotheses, warning=reason)
        rescored = self.rescore(hypotheses, embedding, alpha)
        return Transcription(rescored[0].text if rescored else "", rescored, "multimodal", alpha)

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


def checked_alpha(alpha: float) -> float:
    """Return `alpha` if it lies in [0, 1].

    Raises:
        SettingsError: It does not, or is no number.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.floating)) or not 0.0 <= alpha <= 1.0:
        raise SettingsError(f"alpha is {alpha!r}; expected a number from 0 (speech only) to 1 (picture only)")
    return float(alpha)


def default_precision(bundle: Bundle, device: str) -> str:
    """Choose what is fastest on the device among what the bundle has."""
    preferred = "int8" if device == "cpu" else "fp16"
    return preferred if preferred in bundle.precisions else bundle.precisions[0]
