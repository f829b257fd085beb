"""Combine several PyTorch networks into one without a head. They read the same inputs, and their outputs are concatenated."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from ..network import Network
from ..torch.family import open_torch
from ..torch.graft import for_exporter_
from ..tracing import as_tensor

COMBINED = "combined"  # Origin of a combined network. Its "parts" hold the origins of the parts
_WITHOUT_CLASSES = {"module", "onnx"}  # Origins whose modules cannot be rebuilt from their description alone


class ConcatenatedOutputs(Module):
    """Networks whose outputs, (N, C) each, are concatenated. The parameter names of each part follow its attributes."""

    def __init__(self, parts: Sequence[Module]) -> None:
        super().__init__()
        for part in parts:
            for_exporter_(part)
        self.parts = ModuleList(parts)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the concatenated outputs of all parts, in order."""
        return torch.cat([cast(Tensor, as_tensor(part(*tensors, **named))) for part in self.parts], 1)


def torch_side_by_side(networks: Sequence[Network]) -> Network:
    """Return one headless network whose features are the concatenated outputs of `networks`. All of them read the same inputs."""
    parts = [network.origin | {"edits": [edit.to_dict() for edit in network.edits]} for network in networks]
    unknown = any(part["source"] in _WITHOUT_CLASSES for part in parts)
    origin = {"source": "module", "class": COMBINED} if unknown else {"source": COMBINED, "parts": parts}
    module = ConcatenatedOutputs([network.body.copied_module() for network in networks])
    # no head is looked for in its code: linear parts together look like one
    return open_torch(module, sample=networks[0].sample, origin={**origin, "read": None}, take=True)
