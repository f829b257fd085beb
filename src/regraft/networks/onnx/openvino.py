"""The door to OpenVINO: a model in ONNX form, compiled for the CPU. It needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import NetworkError, optional_import
from ...files.formats import reason_of

__all__ = ["openvino_program"]

_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def openvino_program(content: bytes, *, threads: int, precision: str = "float32") -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return a function that computes all outputs of a model, in order, from arrays by the name of the input.

    Left to itself, OpenVINO computes in 16 bits where the CPU can; here it computes in the precision that is asked for.
    """
    library = optional_import("openvino", "engines", purpose="engine='openvino'")
    how = {"INFERENCE_PRECISION_HINT": _TYPES[precision], "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        core = library.Core()
        compiled = core.compile_model(core.read_model(content), "CPU", how)
        known = {name for port in compiled.inputs for name in port.names}
    except Exception as error:  # the library has RuntimeError and classes of its own
        raise NetworkError(f"OpenVINO does not take the network: {reason_of(error)}.") from error

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        try:
            found = compiled({name: values for name, values in feeds.items() if name in known})
            return [found[at] for at in range(len(compiled.outputs))]
        except Exception as error:
            shapes = ", ".join(str(list(values.shape)) for values in feeds.values())
            raise NetworkError(f"OpenVINO cannot run the network on inputs of the shape {shapes}: {reason_of(error)}.") from error

    return run
