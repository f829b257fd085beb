"""The PyTorch family: any `torch.nn.Module` behind the contract."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ..account import Account, unused_outputs
from ..edits import Edit
from ..family import EditTable, Family
from ..network import Inputs, Network
from ..parts.head import HeadChoice
from ..parts.program_export import export_module
from ..samples import check_sample, first_working_sample, in_one_mapping, sample_facts
from ..sources.arrays import ARRAY_ENDINGS, put_arrays_
from ..sources.torch_files import TORCH_ENDINGS, is_torch_file, put_torch_file_, weights_of
from . import adjusting, changes
from .body import TorchBody, inspected
from .exporting import write_graph, write_program
from .graft import for_exporter_
from .plain import MappingHook, copied, in_single_precision, made_plain, unwrapped
from .products import ReadHead, at_read_head, read_again, with_read_head
from .wrappers import call_module

__all__ = ["TORCH", "TorchFamily", "open_torch"]

WEIGHTS_FILE = "network.safetensors"


class TorchFamily(Family[TorchBody]):
    """The PyTorch family."""

    name: ClassVar[str] = "torch"
    own_endings: ClassVar[tuple[str, ...]] = (".pt2",)
    edits: ClassVar[EditTable] = changes.EDITS

    def unedit(self, body: TorchBody, edit: Edit, *, code: Tensor | None) -> tuple[TorchBody, tuple[str, ...]]:
        return adjusting.settled(body.copy()) if code is None else adjusting.folded(body.copy(), code)

    def write(self, body: TorchBody, folder: Path, *, origin: Mapping[str, Any], edits: Sequence[Edit]) -> Mapping[str, Any]:
        """Write the weights as safetensors and return the facts needed to open them.
        For a user-defined class, also write the network as ONNX, which opens without the class."""
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in body.state().items()}
        save_file(state, folder / WEIGHTS_FILE)
        told = {**origin, "edits": [edit.to_dict() for edit in edits]} if edits else dict(origin)
        facts = {"family": "torch", "file": WEIGHTS_FILE, "origin": told, "sample": sample_facts(body.sample)}
        facts["held"] = sorted(body.given)
        if body.open_shapes:
            facts["open"] = {name: list(shape) for name, shape in body.open_shapes.items()}
        if origin["source"] == "onnx":
            write_graph(body.module, folder)
        return facts if origin["source"] != "module" else {**facts, **write_program(body, folder, own=str(origin.get("class", "")))}

    def export_own(self, body: TorchBody, path: Path, *, weights_format: str | None = None) -> Path:
        """Write an exported program with a free batch axis; `torch.export.load` opens it without the class."""
        module = copied(body.module).cpu()
        for_exporter_(module)
        export_module(body, module, path=path)
        return path

    def put_file_(self, body: TorchBody, path: Path) -> Account:
        if path.suffix.lower() in ARRAY_ENDINGS:
            return read_again(body, put_arrays_(path, weights_of(body.state()), heads=body.head_layers))
        if is_torch_file(path):
            return read_again(body, put_torch_file_(body, path))
        raise NetworkError(f"{path.name!r} does not hold PyTorch weights; expected one of {', '.join((*TORCH_ENDINGS, *ARRAY_ENDINGS))}.")


TORCH = TorchFamily()


def open_torch(  # over the limit: what is known of a module beside it, each optional
    module: Module,
    *,
    classes: Sequence[str] | None = None,
    inputs: Sequence[int] | None = None,
    sample: Inputs | None = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
    head: HeadChoice = None,
) -> Network:
    """Open a live PyTorch module as a network. The given module is not modified unless `take`.
    `inputs` is the shape of one example without the batch axis, needed if it cannot be inferred. `sample` is a batch of two examples to run
    the module with instead.
    The `origin` of a saved folder has "read": where a head was read in the module's code, or None."""
    inner, notes = unwrapped(module)
    own, further = made_plain(inner if take else copied(inner))
    given = frozenset(name for name, parameter in own.named_parameters(remove_duplicate=False) if not parameter.requires_grad)
    guessed = sample is None and inputs is None
    if isinstance(sample, dict) and in_one_mapping(own, sample):
        own.register_forward_pre_hook(MappingHook(), with_kwargs=True)

    def run(changed: bool) -> Inputs:
        if sample is None:
            return first_working_sample(lambda batch: call_module(own.eval(), batch), own, shape=inputs)
        if changed or isinstance(sample, dict):
            check_sample(lambda batch: call_module(own.eval(), batch), own, sample=sample)
        return sample

    ran, last = in_single_precision(own, run)
    facts = origin or {"source": "module", "class": f"{type(module).__module__}.{type(module).__qualname__}"}
    chosen = facts.get("head") if head is None else head
    body = inspected(own, ran, head=chosen)
    if facts.get("read"):
        body = at_read_head(body, **facts["read"])
    elif "read" not in facts and chosen is None and not body.found:
        body = with_read_head(body)
    facts = {name: value for name, value in facts.items() if name != "read"}
    if isinstance(body.module, ReadHead):
        facts["read"] = body.module.facts()
    body.given = given
    if inputs is not None:
        body.open_({"": inputs})
    body.freeze_(())
    others = [other for one in body.found.values() for other in one.others]
    account = Account(notes=(*notes, *further, *last, *body.account.notes, *unused_outputs(head, others)))
    network = Network(TORCH, body, dict(facts) if chosen is None else {**facts, "head": chosen}, account, input_guessed=guessed)
    if classes is not None:
        network.name_classes_(classes)
    return network
