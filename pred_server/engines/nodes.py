"""Adds nodes to a graph that skl2onnx writes: what our own converters share."""

from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

ML = "ai.onnx.ml"


class Graph:
    """The graph so far, and the inputs and outputs of the estimator that is being converted.

    Attributes
    ----------
    inputs, outputs : names of tensors
    widths : how many columns each input has
    """

    def __init__(self, scope: Any, operator: Any, container: Any):
        self._scope, self._container = scope, container
        self.inputs: list[str] = operator.input_full_names
        self.outputs: list[str] = operator.output_full_names
        self.widths: list[int] = [column.type.shape[1] for column in operator.inputs]

    def name(self, hint: str) -> str:
        """Return a new name that begins with the hint."""
        return self._scope.get_unique_variable_name(hint)

    def add(self, kind: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output: `output`, or a new name."""
        output = output or self.name(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        # skl2onnx knows this domain up to version 3; the finished graph is declared to be of a later one.
        version = 3 if domain == ML else None
        self._container.add_node(
            kind, list(inputs), [output], op_domain=domain, op_version=version, name=name, **attributes
        )
        return output

    def cast(self, name: str, dtype: int = TensorProto.DOUBLE, output: str = "") -> str:
        """Add a cast to another type, and return the name of its result."""
        return self.add("Cast", name, output=output, to=dtype)

    def constant(self, values: Any) -> str:
        """Add an array, and return its name."""
        return self.add("Constant", value=tensor(values))


def tensor(values: Any) -> TensorProto:
    """Return an array as an attribute of a node."""
    return numpy_helper.from_array(np.asarray(values))
