"""Adapter for ONNX Runtime: a CPU session with limited memory and, optionally, limited time. It needs no PyTorch."""

import functools
import importlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import NetworkError, optional_import
from ...files.formats import reason_of
from ...files.sizes import memory

NUMBERS = {
    **{"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool"},
    **{"tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"},
}
"""The types of inputs that are fed, as NumPy and PyTorch call them."""
_SHARE_OF_MEMORY = 0.5  # Share of the machine's memory; the rest is for other data


def session_of(
    content: bytes,
    *,
    threads: int = 0,
    what: str = "the network",
    weights: Mapping[str, Any] = MappingProxyType({}),
    folds: bool = False,
) -> Any:
    """Return a session that runs a checked model on the CPU. Creating it runs nothing of the model, unless it `folds` constants.
    `weights`: those apart from it."""
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if _limit_memory():
        options.add_session_config_entry("session.use_env_allocators", "1")
    if weights:
        values = [runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(*_typed(one)) for one in weights.values()]
        options.add_external_initializers(list(weights), values)
    how = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": [] if folds else ["ConstantFolding"]}
    try:
        session = runtime.InferenceSession(content, options, enable_fallback=0, **how)  # the fallback would print text of the file
        session.regraft_weights = weights  # it computes with these arrays, not with copies
        return session
    except Exception as error:  # the runtime has a class for each of its error codes
        raise NetworkError(
            f"ONNX Runtime does not take {what}: it is damaged, or its operators do not fit one another, because of this error: "
            f"{reason_of(error)}."
        ) from error


def _typed(values: Any) -> tuple[Any, int]:
    """Return an array as ONNX Runtime takes it, and the number of its type in ONNX."""
    kind = importlib.import_module("onnx.helper").np_dtype_to_tensor_dtype(values.dtype)
    return values.view("uint16") if values.dtype.name == "bfloat16" else values, kind


def run_session(session: Any, feeds: Mapping[str, Any], *, seconds: float | None = None) -> list[Any]:
    """Return all outputs of a session, in order.
    The run stops after `seconds`; None sets no limit."""
    options = _onnxruntime().RunOptions()
    limit = None if seconds is None else threading.Timer(seconds, setattr, (options, "terminate", True))
    try:
        if limit is not None:
            limit.start()
        return list(session.run(None, feeds, options))
    except Exception as error:  # the runtime has a class for each of its error codes
        if options.terminate:
            raise NetworkError(f"The network in ONNX form ran for {seconds:.0f} s on two examples and was stopped.") from error
        shapes = ", ".join(str(list(values.shape)) for values in feeds.values())
        raise NetworkError(
            f"The network in ONNX form cannot be run on inputs of the shape {shapes}, because of this error: {reason_of(error)}."
        ) from error
    finally:
        if limit is not None:
            limit.cancel()


def _onnxruntime() -> Any:
    return optional_import("onnxruntime", "onnx", purpose="A network in ONNX form, or of your own class without architecture=,")


@functools.cache
def _limit_memory() -> bool:
    """Let all sessions of this process share one memory pool with an upper limit. Return whether that was possible."""
    runtime, found = _onnxruntime(), [size for size in (memory(),) if size is not None]
    with suppress(ValueError, OSError):  # the limit of the process's control group; "max" if there is none
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    if not found:
        return False
    try:
        place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
        limits = runtime.OrtArenaCfg({"max_mem": int(_SHARE_OF_MEMORY * min(found)), "arena_extend_strategy": 1})
        runtime.create_and_register_allocator(place, limits)
    except Exception:  # the user's code has registered one, or this version of the runtime has none
        return False
    return True
