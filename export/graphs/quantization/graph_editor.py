"""A graph under change: constants by name, who makes a tensor, who reads it."""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own operators


class GraphEditor:
    """A graph with its constants at hand; changes it in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self._read_constants_directly()

    def _read_constants_directly(self) -> None:
        """Drop Identity nodes behind constants: of tables that are equal, the exporter stores one."""
        for node in list(self.graph.node):
            if node.op_type == "Identity" and node.input[0] in self.tensors:
                for user in self.users(node.output[0]):
                    for i, name in enumerate(user.input):
                        if name == node.output[0]:
                            user.input[i] = node.input[0]
                self.graph.node.remove(node)

    def products(self) -> dict[str, list[onnx.NodeProto]]:
        """Return the products with constant weights by their input, in the order of the graph."""
        found = defaultdict(list)
        for node in self.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self.tensors:
                found[node.input[0]].append(node)
        return dict(found)

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant."""
        values: NDArray[Any] = numpy_helper.to_array(self.tensors[name])
        return values

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Add a constant, or replace the one of that name; return the name."""
        if name in self.tensors:
            self.graph.initializer.remove(self.tensors[name])
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        self.tensors[name] = self.graph.initializer[-1]
        return name

    def drop_unread(self, name: str) -> None:
        """Remove a constant that no node reads."""
        if name in self.tensors and not self.users(name):
            self.graph.initializer.remove(self.tensors.pop(name))

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor; None for an input of the graph."""
        return next((node for node in self.graph.node if name in node.output), None)

    def users(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return [node for node in self.graph.node if name in node.input]

    def insert_before(self, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
        """Put nodes where they can be read by `node`."""
        place = list(self.graph.node).index(node)
        for offset, each in enumerate(new):
            self.graph.node.insert(place + offset, each)

    def replace(self, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
        """Put nodes in place of one, and drop the constants that nobody reads any more."""
        self.insert_before(node, new)
        self.graph.node.remove(node)
        for name in node.input:
            self.drop_unread(name)

    def take_bias(self, product: onnx.NodeProto) -> tuple[str, list[str]]:
        """Remove the addition of a constant vector that follows a product alone.

        Returns:
            What the product now has to make, and the name of the vector it has to add, if any.
        """
        users = self.users(product.output[0])
        if len(users) == 1 and users[0].op_type == "Add":
            (other,) = [name for name in users[0].input if name != product.output[0]]
            if other in self.tensors and len(self.tensors[other].dims) == 1:
                self.graph.node.remove(users[0])
                return users[0].output[0], [other]
        return product.output[0], []

    def use_microsoft_operators(self) -> None:
        """Declare the domain of onnxruntime's own operators."""
        if not any(opset.domain == MICROSOFT for opset in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def make_node(
    kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any
) -> onnx.NodeProto:
    """Make a node of one output, which it is named after."""
    return helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)
