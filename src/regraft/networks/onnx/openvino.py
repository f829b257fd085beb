"""Adapter for OpenVINO: an ONNX model compiled for the CPU. It needs no PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import NetworkError, optional_import
from ...files.formats import reason_of

_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def openvino_program(content: bytes, *, threads: int, precision: str = "float32") -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return a function that maps input arrays by name to all outputs of a model, in order.
    OpenVINO computes in 16 bits by default if the CPU can. This function uses the requested precision instead."""
    library = optional_import("openvino", "engines", purpose="engine='openvino'")
    how = {"INFERENCE_PRECISION_HINT": _TYPES[precision], "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        core = library.Core()
        compiled = core.compile_model(core.read_model(content), "CPU", how)
        known = {name for port in compiled.inputs for name in port.names}
    except Exception as error:  # the library raises RuntimeError and its own classes
        raise NetworkError(f"OpenVINO does not take the network: {reason_of(error)}.") from error

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        try:
            found = compiled({name: values for name, values in feeds.items() if name in known})
            return [found[at] for at in range(len(compiled.outputs))]
        except Exception as error:
            shapes = ", ".join(str(list(values.shape)) for values in feeds.values())
            raise NetworkError(f"OpenVINO cannot run the network on inputs of the shape {shapes}: {reason_of(error)}.") from error

    return run
