"""Several channels to the one that is recognised."""

from typing import Final

import numpy as np
import numpy.typing as npt

# Of the louder channel's power: less is left of it where one channel is the other upside down, as from a
# balanced microphone in a stereo input.
CANCELLED: Final = 0.01


def mix_down(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean of the channels; where they cancel each other, the louder of them.

    Args:
        samples: Shape (frames, channels); not-finite values stay, counted by the caller.

    Returns:
        Shape (frames,), contiguous.
    """
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0])
    with np.errstate(invalid="ignore", over="ignore"):
        mono: npt.NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
        # Summed block-wise in float64, without a copy of the samples.
        powers = np.einsum("ij,ij->j", samples, samples, dtype=np.float64)
        if np.einsum("i,i->", mono, mono, dtype=np.float64) < CANCELLED * powers.max(initial=0.0):
            # Of those that are as loud the first, so that it is the same one in every block.
            return np.ascontiguousarray(samples[:, int((powers > powers.max() / 2).argmax())])
    return mono
