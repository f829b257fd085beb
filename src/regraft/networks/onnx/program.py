"""A network in ONNX form as a module that ONNX Runtime runs, and the names of its inputs and outputs. It only predicts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ...words import counted
from .session import NUMBERS, run_session, session_of

FEATURES = "features.0"  # Output that holds the features of the head. A name with a dot never occurs inside the network
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
        wrong = [kind for kind in self.types.values() if kind not in NUMBERS]
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
            name: tensor.detach().to("cpu", getattr(torch, NUMBERS[kind])).contiguous().numpy()
            for (name, kind), tensor in zip(self.types.items(), given, strict=True)
        }
        found = zip(self.outputs, run_session(self.__dict__["session"], feeds, seconds=self.seconds), strict=True)
        return {name: torch.from_numpy(values).to(given[0].device) for name, values in found}

    def __deepcopy__(self, _memo: Any) -> Self:
        """Return the program itself: it is immutable."""
        return self
