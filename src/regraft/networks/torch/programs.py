"""A PyTorch program from a file, which runs without the network's class. It only predicts."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ...files.formats import reason_of
from ..onnx.program import logits_name
from ..tracing import as_tensor


class TorchProgram(Module):
    """A PyTorch program from a file that the user trusts. Its output maps names as in `OnnxProgram`, without features."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        program = torch.export.load(path)
        self.own = f"the file {path.name!r}"
        self.__dict__["program"] = program.module()
        self.outputs = (logits_name(0),)
        given: Any = program.example_inputs or ((), {})
        tensors, named = given
        inputs = program.graph_signature.user_inputs
        shapes = [node.meta["val"].shape[1:] for node in program.graph.nodes if node.name in inputs and "val" in node.meta]
        free = [tuple(side if isinstance(side, int) else None for side in shape) for shape in shapes]
        self.free = {name: shape for name, shape in zip(named or [""], free, strict=False) if None in shape}
        """Shapes of the inputs with free axes beside that of the examples, by name; "" for the only one."""
        self.sample: Any = dict(named) if named else tensors[0] if len(tensors) == 1 else None
        if not isinstance(self.sample, (Tensor, dict)):
            raise NetworkError(f"{str(path)!r} takes {len(tensors)} tensors without names; expected one, or tensors by name.")
        with torch.no_grad():
            result = self._result(self.sample)
        sums = result.double().sum(1)
        positive = result.shape[1] > 1 and not bool((result < 0).any())
        self.probabilities = positive and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)  # rows of a softmax

    def _result(self, inputs: Any) -> Tensor:
        program = self.__dict__["program"]
        result = as_tensor(program(**inputs) if isinstance(inputs, dict) else program(inputs))
        if result is None or result.ndim != 2:
            received = "no tensor" if result is None else f"a tensor of shape {list(result.shape)}"
            raise NetworkError(f"The program returns {received}; expected scores of shape (N, C).")
        return result

    def forward(self, *tensors: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return the logits (N, C) under the output's name. Probabilities are returned as their logarithms."""
        try:
            result = self._result(named or tensors[0])
        except (RuntimeError, AssertionError) as error:  # the program's guards: the shape differs from the exported one
            raise NetworkError(f"The program cannot be run on this batch: {reason_of(error)}.") from error
        return {logits_name(0): result.clamp_min(torch.finfo(result.dtype).tiny).log() if self.probabilities else result}
