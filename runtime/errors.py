"""Every fault that the project raises on purpose: one class each, under one base, and also a builtin.

The builtin parent lets callers catch what they already know (`FileNotFoundError`, `ValueError`);
`EarsightError` lets a server catch all of it. Messages say what was received, what was expected
and how to mend it. The command lines turn each into one line and exit status 2.
"""


class EarsightError(Exception):
    """Base of all faults that stem from what the project was given, not from a defect of its own."""


class SettingsError(EarsightError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class PackageMissingError(EarsightError, ImportError):
    """A package that an extra brings is not installed; the message names the extra."""


class AudioError(EarsightError, ValueError):
    """Audio was found but cannot be used: undecodable, empty, not finite, of a wrong shape."""


class AudioFormatError(AudioError):
    """The audio is in a format that is not read here, or is no audio at all."""


class AudioTooLongError(AudioError):
    """The audio is longer than is allowed."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """The audio file does not exist."""


class ImageError(EarsightError, ValueError):
    """A picture was found but cannot be used: no image, truncated, too large."""


class ImageFormatError(ImageError):
    """The picture is in a format that is not read here, or is no picture at all."""


class ImageTooLargeError(ImageError):
    """The picture has more pixels than are decoded."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """The picture does not exist."""


class ImageCacheError(EarsightError, ValueError):
    """The image-embedding cache cannot be read or does not fit the bundle."""


class BundleError(EarsightError, ValueError):
    """The bundle is there but unusable: damaged, of another schema, incomplete."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """The bundle folder, or a file that `bundle.json` names, does not exist."""


class ProviderError(EarsightError, RuntimeError):
    """The execution provider that was asked for cannot run here, or did not take the graph."""


class InferenceError(EarsightError, RuntimeError):
    """A graph failed while it ran: it does not fit the bundle's settings, or memory ran out."""


class CheckpointError(EarsightError, ValueError):
    """A checkpoint cannot be exported: not a Whisper or CLIP, incomplete, or unreadable."""


class WeightsUnavailableError(CheckpointError):
    """Weights that a package should hold cannot be had: it is not installed, or holds other ones."""


class ParityError(EarsightError, ArithmeticError):
    """An exported graph differs from PyTorch by more than its tolerance."""


class OutputError(EarsightError, OSError):
    """A result cannot be written where it was asked for."""


class ManifestError(EarsightError, ValueError):
    """A manifest row cannot be used; the message names file and line."""


class NBestFileError(EarsightError, ValueError):
    """An n-best file cannot be used; the message names file and line."""
