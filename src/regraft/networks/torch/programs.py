"""Networks without their classes, run by ONNX Runtime or as a PyTorch program. They only predict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ...files.formats import reason_of
from ...words import counted
from ..onnx.session import run_session, session_of
from ..tracing import as_tensor

FEATURES = "features.0"  # Output that holds the features of the head. A name with a dot never occurs inside the network
_TYPES = {
    **{"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16, "tensor(bool)": torch.bool},
    **{"tensor(int8)": torch.int8, "tensor(int32)": torch.int32, "tensor(int64)": torch.int64, "tensor(uint8)": torch.uint8},
}
_LONGEST_TRIAL = 30.0  # Time limit in seconds for the first run, of two examples


def input_name(index: int) -> str:
    """Return the ONNX name of the network input at `index`."""
    return f"input.{index}"


def logits_name(index: int) -> str:
    """Return the ONNX name of the logits of a head; `index` counts the heads with their own class weights."""
    return f"logits.{index}"


class OnnxProgram(Module):
    """An ONNX network. Its output maps names to the logits of each head and the features.
    `content` is the content of an ONNX file. `called` lists the file's input names if they differ from those of a saved folder.
    `names`: names of the network's inputs, in order; empty for one unnamed tensor.
    `weights`: those that are apart from the content, by name.
    `own`: the exported class, for messages."""

    def __init__(
        self, content: bytes, names: Sequence[str], *, called: Sequence[str] = (), weights: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.__dict__["session"] = session = session_of(content, threads=torch.get_num_threads(), weights=weights)
        self.names, self.own = tuple(names), "your class"
        self.types = {one.name: one.type for one in session.get_inputs()}
        self.outputs = tuple(one.name for one in session.get_outputs())
        self.seconds: float | None = _LONGEST_TRIAL
        wrong = [kind for kind in self.types.values() if kind not in _TYPES]
        expected = list(called) or [input_name(index) for index in range(max(len(self.names), 1))]
        if wrong or list(self.types) != expected:
            raise NetworkError(
                f"The network in ONNX form takes the inputs {', '.join(f'{name}: {kind}' for name, kind in self.types.items())}; expected "
                f"{', '.join(expected)}, tensors of numbers. It was not written by regraft, or belongs to another folder."
            )

    def forward(self, *tensors: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name. The tensors may be passed under the network's input names."""
        given = [*tensors, *(named[name] for name in self.names[len(tensors) :])]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            raise NetworkError(
                f"A network opened without its class gives no gradients; received {counted(len(given), 'input')} with requires_grad. "
                "Open its folder with architecture=, a module or a function that makes it."
            )
        feeds = {
            name: tensor.detach().to("cpu", _TYPES[kind]).contiguous().numpy()
            for (name, kind), tensor in zip(self.types.items(), given, strict=True)
        }
        found = zip(self.outputs, run_session(self.__dict__["session"], feeds, seconds=self.seconds), strict=True)
        return {name: torch.from_numpy(values).to(given[0].device) for name, values in found}

    def __deepcopy__(self, _memo: Any) -> Self:
        """Return the program itself: it is immutable."""
        return self


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
