"""Running a graph: what it and the settings beside it must agree on, and what its failures become."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from runtime.errors import BundleError, InferenceError


def require_input_shape(
    session: ort.InferenceSession, name: str, shape: Sequence[int], settings: str
) -> None:
    """Compare the shape that the settings lead to with the one that the graph takes.

    Args:
        session: The graph.
        name: An input of it.
        shape: Sizes of its axes but the first, which is the batch.
        settings: File that the sizes follow from, for the message.

    Raises:
        BundleError: They differ in an axis that the graph has fixed.
    """
    found = next((tuple(node.shape[1:]) for node in session.get_inputs() if node.name == name), None)
    fits = (
        found is not None
        and len(found) == len(shape)
        and all(not isinstance(fixed, int) or fixed == size for fixed, size in zip(found, shape, strict=True))
    )
    if not fits:
        raise BundleError(
            f"{settings} leads to {name} of shape {tuple(shape)}, the graph takes {found}: they belong to "
            "different checkpoints; export the bundle again"
        )


def run(session: ort.InferenceSession, output: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Run a graph and return one output.

    Raises:
        InferenceError: It failed.
    """
    try:
        (values,) = session.run([output], dict(feeds))
    except Exception as error:  # onnxruntime has a class of its own for each status code
        raise _failure(output, error) from error
    array: NDArray[Any] = values
    return array


def run_bound(
    session: ort.InferenceSession, binding: ort.IOBinding, graph: str, options: ort.RunOptions | None = None
) -> None:
    """Run a graph whose inputs and outputs are bound.

    Raises:
        InferenceError: It failed.
    """
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:
        raise _failure(graph, error) from error


def _failure(graph: str, error: Exception) -> InferenceError:
    return InferenceError(
        f"{graph} failed while it ran: {' '.join(str(error).split())} (memory ran out, or the settings of "
        "the bundle belong to another graph: export it again)"
    )
