"""PyTorch weights files: opened without running code, and loaded into a network with an account."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import NetworkError, UnsafeFileError
from ...files.formats import named_in_utf8, opening
from ...files.pickles import archived_names, names_in
from ...files.sizes import open_archive, refuse_expansion
from ...files.text import printable
from ..account import Account
from ..matching import Weight, fill_, match
from ..torch.body import TorchBody

__all__ = ["TORCH_ENDINGS", "is_torch_file", "put_torch_file_", "put_weights_", "read_torch_weights", "weights_of"]

TORCH_ENDINGS = (".safetensors", ".pt", ".pth", ".pth.tar", ".pt.tar", ".ckpt", ".bin")
_PARTS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "params", "module", "weights"),
    *("ema", "ema_state_dict", "state_dict_ema", "model_ema", "params_ema"),
)
"""Keys under which other programs store weights in checkpoints. Averaged weights are used only if there are no others."""

_COUNTERS = ("num_batches_tracked",)
_PLAIN = {
    *(f"torch._utils _rebuild_{name}" for name in ("parameter", "tensor", "tensor_v2", "tensor_v3")),
    *("torch Size", "torch device", "torch.nn.parameter Parameter", "torch.serialization _get_layout", "collections OrderedDict"),
    *("builtins set", "__builtin__ set", "builtins complex", "__builtin__ complex", "_codecs encode"),
}
"""Names in a pickle of plain tensors. `torch.load(weights_only=True)` admits more; some allocate tensors without stored data."""
_SPECIAL = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_qtensor": "quantized",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "empty (meta)",
    "_rebuild_wrapper_subclass": "subclassed",
    "_rebuild_from_type_v2": "subclassed",
    "_rebuild_parameter_with_state": "subclassed",
    "_rebuild_device_tensor_from_numpy": "foreign",
    "_rebuild_device_tensor_from_cpu_tensor": "foreign",
}
_OLD_STREAMS = 5  # Number of consecutive pickles in a file of PyTorch before 1.6; the raw numbers follow


def is_torch_file(path: Path) -> bool:
    """Return whether the file name has the ending of a PyTorch weights file."""
    return path.name.lower().endswith(TORCH_ENDINGS)


def read_torch_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors without running code.
    Return a mapping of name to tensor in file order. Tensors nested under "state_dict", "model" and similar keys are found."""
    return _read(path)[0]


def put_torch_file_(body: TorchBody, path: Path) -> Account:
    """Load the tensors of a file into a network, as `put_weights_` does.
    If the file holds several sets of weights, the account says which one was used."""
    tensors, taken, others = _read(path)
    account = put_weights_(body, tensors)
    if not others:
        return account
    told = f"{printable(path.name)} holds several sets of weights; taken: {taken!r}, left: {', '.join(map(repr, others))}. To take others, "
    return account.joined(Account(notes=(told + "save them as a file of their own.",)))


def _read(path: Path) -> tuple[dict[str, Tensor], str, list[str]]:
    """Return the tensors, their key in the file, and the keys of other sets."""
    shown = repr(printable(path))
    if path.suffix.lower() == ".safetensors":
        with opening(path, "safetensors"), named_in_utf8(path) as plain:
            content: Any = load_file(plain)
    else:
        with opening(path, "torch"):
            _check_names(path, shown)
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
            except pickle.UnpicklingError as error:
                raise _not_tensors(shown) from error
    sets = _sets_inside(content)
    if not sets or (len(sets) > 1 and next(iter(sets)).split(".")[0] not in _PARTS):
        held = ", ".join(map(repr, sets or (content if isinstance(content, Mapping) else ()))) or type(content).__name__
        raise NetworkError(
            f"{shown} holds {'several networks' if sets else 'no named tensors'}: {printable(held, width=200)}; expected one state dict. "
            "Save that of your network alone: torch.save(model.state_dict(), 'weights.pt')."
        )
    (taken, tensors), *others = sets.items()
    for name, tensor in tensors.items():
        _check_tensor(tensor, name=name, shown=shown)
    return tensors, taken, [name for name, _ in others]


# ── before PyTorch reads the file ────────────────────────────────────────────────────────────────────────────────────────


def _check_names(path: Path, shown: str) -> None:
    """Raise unless the pickles in a file name only plain tensors. The pickles are parsed as text and not run."""
    for name in _names(path, shown):
        kind = _SPECIAL.get(name.rpartition(" ")[2])
        if kind is not None:
            raise NetworkError(
                f"{shown} holds {kind} tensors; expected plain ones. Save them once as such: tensor.to_dense(), tensor.dequantize() or "
                "tensor.detach().clone() for each, then torch.save."
            )
        if name not in _PLAIN and not _is_storage(name):
            raise _not_tensors(shown, name)


def _names(path: Path, shown: str) -> Iterator[str]:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # PyTorch itself checks these bytes
            file.seek(0)
            for _ in range(_OLD_STREAMS):
                yield from names_in(file)
            return
    with open_archive(path, error=NetworkError) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UnsafeFileError(f"{shown} is a TorchScript program, which is code. Save its weights alone: model.state_dict().")
        yield from archived_names(archive)


def _is_storage(name: str) -> bool:
    """Return whether "module name" is a storage class or a data type, such as "torch FloatStorage" or "torch float32"."""
    module, _, own = name.partition(" ")
    if module not in ("torch", "torch.storage", "torch.cuda"):
        return False
    return own.endswith("Storage") or isinstance(getattr(torch, own, None), torch.dtype)


def _not_tensors(shown: str, name: str = "") -> UnsafeFileError:
    which = f" ({printable(name.replace(' ', '.'), width=80)})" if name else ""
    return UnsafeFileError(
        f"{shown} is a pickle that holds objects{which}, not only tensors; opening it would run code, so it is refused. "
        "Where you trust it, save its weights once as tensors: torch.save(model.state_dict(), 'weights.pt'), and give that file."
    )


# ── after PyTorch has read it ────────────────────────────────────────────────────────────────────────────────────────────


def _sets_inside(content: Any, *, deeper: int = 3) -> dict[str, dict[str, Tensor]]:
    """Return the sets of named tensors in a checkpoint by key. The set to use comes first."""
    if not isinstance(content, Mapping):
        return {}
    found: dict[str, dict[str, Tensor]] = {}
    for key in _PARTS if deeper else ():
        inside = _sets_inside(content.get(key), deeper=deeper - 1)
        found |= {key if not inner else f"{key}.{inner}": tensors for inner, tensors in inside.items()}
    own = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    others = [key for key in content if deeper and key not in _PARTS and not str(key).startswith("optim")]
    if found or own or not others:
        return found or ({"": own} if own else {})
    return {f"{key}.{inner}".strip("."): one for key in others for inner, one in _sets_inside(content[key], deeper=deeper - 1).items()}


def _check_tensor(tensor: Tensor, *, name: str, shown: str) -> None:
    """Raise unless a tensor is a plain one whose storage holds about as many numbers as its shape declares."""
    what = f"{shown}: {printable(name, width=120)!r}"
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu":
        raise NetworkError(f"{what} is no plain tensor; expected one. Save it once as tensor.to_dense() or tensor.dequantize().")
    refuse_expansion(tensor.numel() * tensor.element_size(), stored=tensor.untyped_storage().nbytes(), what=what, error=NetworkError)


def weights_of(tensors: Mapping[str, Tensor]) -> list[Weight]:
    """Return the weights of a state dict without counters. The values share memory with it."""
    return [
        Weight(name, tuple(tensor.shape), name.rpartition(".")[0], "", tensor)
        for name, tensor in tensors.items()
        if not name.endswith(_COUNTERS)
    ]


def put_weights_(body: TorchBody, tensors: Mapping[str, Tensor]) -> Account:
    """Load named tensors into a network of any similar architecture.
    The returned account lists the matched weights with their rules, and the reshaped, missing and unexpected ones."""
    source, target = weights_of(tensors), weights_of(body.state())
    return fill_(source, target, found=match(source, target, head=set(body.head_layers)))
