"""A network of either family as an exported PyTorch program, which opens without its classes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import Parameter, Signature, signature
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ...files.writing import write_bytes
from ..family import Body
from ..tracing import flat_tensors, replaced
from .onnx_export import (
    batches_of,
    dimensions,
    input_names,
    lengths_of,
    prove,
    sample_tensors,
    silenced,
    warn_of_length,
    ways_of,
    why_not_exported,
)
from .protocols import Inputs, on_device
from .recurrent import cells_of_any_length


class _NamedInputs(Module):
    """A module that takes tensors by name. Its forward has no free keywords: an exported program with them cannot be called."""

    def __init__(self, module: Module, names: Sequence[str], *, run: Callable[[dict[str, Tensor]], Any] | None = None) -> None:
        super().__init__()
        self.module = module

        def forward(**named: Tensor) -> Any:
            return module(**named) if run is None else run(named)

        forward.__dict__["__signature__"] = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
        self.__dict__["forward"] = forward


def export_module(body: Body, module: Module, *, path: Path, by_name: Callable[[dict[str, Tensor]], Any] | None = None) -> None:
    """Write a module in inference mode as an exported program with a free batch axis; open axes are free, if the exporter keeps them so.
    The module takes the sample of `body`. `by_name` runs it on tensors by name, if its forward does not take them as keywords."""
    names, device = input_names(body.sample), next((one.device for one in module.parameters()), torch.device("cpu"))
    whole = (lambda **named: by_name(named)) if by_name is not None and names else module

    def results(run: Callable[..., Any], tensors: Sequence[Tensor]) -> list[Tensor]:
        given: Any = on_device(dict(zip(names, tensors, strict=True)) if names else tensors[0], device)
        return [one.cpu() for one in flat_tensors(run(**given) if names else run(given))]

    def prove_lengths(called: Callable[..., Any], lengths: Sequence[Mapping[int, str]]) -> None:
        shown = [str(at) for at, _ in enumerate(results(whole, sample_tensors(body.sample)))]
        prove(
            body,
            lambda *tensors: results(whole, tensors),
            program=lambda *tensors: dict(zip(shown, results(called, tensors), strict=True)),
            outputs=shown,
            lengths=lengths,
        )

    problems: list[Exception] = []
    free = lengths_of(body)
    for lengths in ways_of(free):
        try:
            content = BytesIO()
            program = exported_program(module, on_device(body.sample, device), by_name=by_name, lengths=lengths)
            if any(lengths):
                prove_lengths(program.module(), lengths)
            for node in (node for part in program.graph_module.modules() for node in part.graph.nodes):
                node.meta.pop("stack_trace", None)  # the files and lines of code on this machine
            with silenced():
                torch.export.save(program, content)
            break
        except Exception as problem:  # not every forward can be exported
            problems.append(problem)
    else:
        reason, name = why_not_exported(problems[-1]), type(module).__name__
        raise NetworkError(f"{name} cannot be written as an exported program: {reason}. Export it as .onnx, or save it.") from problems[-1]
    if not any(lengths) and any(free):
        with suppress(Exception):  # a network of one length may fail on others in any way
            results(whole, [*batches_of(body, longer=free)][-1])
            warn_of_length(sample_tensors(body.sample), what="exported program")
    write_bytes(path, content.getvalue())


def exported_program(
    module: Module,
    sample: Inputs,
    *,
    by_name: Callable[[dict[str, Tensor]], Any] | None = None,
    lengths: Sequence[Mapping[int, str]] = (),
) -> Any:
    """Return a module in inference mode as an exported program with a free batch axis. `lengths`: further free axes of each input."""
    takes = signature(module.forward).parameters
    axes = dimensions(lengths or [{}] * (len(sample) if isinstance(sample, dict) else 1))
    if isinstance(sample, dict):
        whole = module if takes.keys() >= sample.keys() else _NamedInputs(module, list(sample), run=by_name)
        given: Any = ((), dict(sample), dict(zip(sample, axes, strict=True)))
    else:
        first = next(iter(takes.values()))
        whole, given = module, ((sample,), {}, {first.name: tuple(axes)} if first.kind is Parameter.VAR_POSITIONAL else tuple(axes))
    with silenced(), replaced(cells_of_any_length()):
        return torch.export.export(whole.eval(), *given[:2], dynamic_shapes=given[2])
