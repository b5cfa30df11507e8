"""Decoding in processes: the same samples, and a decoder that dies harms nobody."""

import asyncio
import os
import time

import numpy as np
import pytest

from runtime.audio.limits import AudioLimits
from runtime.audio.load import load_audio
from runtime.errors import AudioError, AudioFormatError
from runtime.server import decoding
from runtime.server.decoding import Decoders, decode_audio, decode_picture


def die() -> None:
    os._exit(3)


def eat() -> int:
    return len(bytearray(4 * 2**30))


@pytest.fixture(params=[0, 1], ids=["threads", "processes"])
def decoders(request):
    made = Decoders(request.param)
    yield made
    made.close()


def test_files_are_decoded(decoders, clip, picture):
    samples = asyncio.run(decoders.run(decode_audio, clip, 16000, AudioLimits()))
    np.testing.assert_array_equal(samples, load_audio(clip))
    assert asyncio.run(decoders.run(decode_picture, picture, 10**7)).mode == "RGB"
    with pytest.raises(AudioFormatError, match="no audio file"):
        asyncio.run(decoders.run(decode_audio, b"hello", 16000, AudioLimits()))


def test_a_decoder_that_dies_harms_nobody(clip, monkeypatch):
    decoders = Decoders(1)
    try:
        for deadly in (die, eat):
            with pytest.raises(AudioError, match="its decoder ended"):
                asyncio.run(decoders.run(deadly))
        monkeypatch.setattr(decoding, "TIME_S", 0.3)
        with pytest.raises(AudioError, match="took too long"):
            asyncio.run(decoders.run(time.sleep, 30))
        monkeypatch.undo()
        assert asyncio.run(decoders.run(decode_audio, clip, 16000, AudioLimits())).size
    finally:
        decoders.close()
