"""Rules that match the weights of a file to those of a network: by name, by order and shape, or by a unique alignment of shapes.

The rules are tried in this order for the whole file. An ambiguous match is an error, never a guess.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, takewhile

from ...errors import AmbiguousMatchError, NetworkError
from ...files.text import printable
from ..account import Account
from .addresses import Places, address_bases
from .weights import Weight, WeightMatches

_PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.", "net.")
_SAME = "same name"
_PLACE = "same place among the layers of its class"
_TAIL = "same end of the name"
ORDER = "order and shape"
_ALIGNED = "only alignment by shape"
_MOST_WAYS = 50
_Pairs = Sequence[tuple[int, int]]
_PROVES_NOTHING = "Order and shape alone prove nothing: check the network's answer on an example that you know."


def by_shape(account: Account) -> bool:
    """Return whether any weights of an account were matched by order and shape instead of by name."""
    return not {ORDER, _ALIGNED}.isdisjoint(account.rules.values())


def by_order(account: Account) -> bool:
    """Return whether any weights of an account were matched by less than names: also by their place among the layers of a class."""
    return by_shape(account) or _PLACE in account.rules.values()


@dataclass
class _Matches:
    pairs: list[tuple[int, int, str]] = field(default_factory=list)
    reshaped: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def size(self) -> int:
        return len(self.pairs) + len(self.reshaped)

    def used(self) -> set[int]:
        return {given for given, _, _ in self.pairs} | {given for given, _ in self.reshaped}

    def taken(self) -> set[int]:
        return {at for _, at, _ in self.pairs} | {at for _, at in self.reshaped}


def match(source: Sequence[Weight], target: Sequence[Weight], *, head: Collection[str] = (), by_address: bool = False) -> WeightMatches:
    """Match the weights of a file to those of a network.
    Auto-generated Keras names (`dense_3`) count as positions among the layers of their class. They are ignored if file and network have
    different numbers of such layers. With `by_address` all layer names may count as auto-generated, and matching by order is skipped."""
    found = _matches(source, target, head=head, by_address=by_address)
    shapes = [(target[at], f"is {source[given].shape} in the file and {target[at].shape} here") for given, at in found.reshaped[:4]]
    if not found.pairs:
        same = f" Names that agree have other shapes: {'; '.join(f'{one.name!r} {said}' for one, said in shapes)}." if shapes else ""
        raise NetworkError(
            f"No weight of the file fits the network, or too few do; nothing was taken.{same} The file begins with {_shown(source)}; "
            f"the network with {_shown(target)}. "
            "Expected the weights of the same architecture: build the network as it was when they were saved."
        )
    pairs = sorted(found.pairs, key=lambda pair: pair[1])
    used, taken = found.used(), found.taken()
    entries: dict[str, list[str]] = {
        "matched": [target[at].shown for _, at, _ in pairs],
        "reshaped": [target[at].shown for _, at in found.reshaped],
        "missing": [weight.shown for at, weight in enumerate(target) if at not in taken],
        "unexpected": [weight.name for given, weight in enumerate(source) if given not in used],
    }
    applying = {key: names for key, names in entries.items() if names or key == "matched"}
    rules = {target[at].shown: rule for _, at, rule in pairs}
    notes = dict.fromkeys([*found.notes, *(f"{one.shown} {said}." for one, said in shapes)])
    return WeightMatches(tuple(pairs), Account(applying, rules, tuple(notes)))


def _matches(source: Sequence[Weight], target: Sequence[Weight], *, head: Collection[str], by_address: bool) -> _Matches:
    """Return the matches by the first rule that applies; without pairs if none does."""
    names = _by_name(source, target)
    enough = max(1, min(len(source), len(target)) // 2)
    if by_address and names.size() < enough:
        names = _by_name(source, target, everything=True)
    if names.size() < enough:
        names = max(names, _by_tail(source, target), key=_Matches.size)
    if names.size() >= enough:
        return _rest_reshaped(source, target, found=names, head=head)
    if by_address:
        return _inside_one(source, target)
    ordered = _by_order(source, target, head=head)
    if ordered is not None:
        return ordered
    aligned = _by_alignment(source, target, left=range(len(source)), free=range(len(target)))
    if len(aligned.pairs) >= enough:
        return _rest_reshaped(source, target, found=aligned, head=head)
    return names if names.pairs else _Matches()


def _coupled(source: Sequence[Weight], target: Sequence[Weight], *, couples: Iterable[tuple[int, int, str]]) -> _Matches:
    """Return weights that belong together, each with its rule, as pairs where their shapes are equal."""
    found = _Matches()
    for given, at, rule in couples:
        if source[given].shape == target[at].shape:
            found.pairs.append((given, at, rule))
        else:
            found.reshaped.append((given, at))
    return found


def _shown(weights: Sequence[Weight]) -> str:
    first = ", ".join(f"{printable(weight.name, width=120)!r} {tuple(weight.shape)}" for weight in weights[:6])
    more = f" and {len(weights) - 6} more" if len(weights) > 6 else ""
    return f"{first}{more}" if first else "nothing"


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_name(source: Sequence[Weight], target: Sequence[Weight], *, everything: bool = False) -> _Matches:
    """Match equal names; auto-generated names by position in their class, or by alignment if the numbers of layers differ."""
    bases = address_bases([*source, *target])
    ours, theirs = Places(source, bases, everything=everything), Places(target, bases, everything=everything)
    doubtful = ours.doubtful(theirs)
    trusted = {index: name for index, name in enumerate(ours.names) if ours.reached(index, doubtful) is None}
    places = {name: index for index, name in enumerate(theirs.names) if theirs.reached(index, doubtful) is None}
    prefix, renamed = _best_prefix(trusted, places)
    couples = []
    for index, at in ((index, places[name]) for index, name in renamed.items() if name in places):
        same = _SAME if source[index].name == target[at].name else _PLACE
        couples.append((index, at, f"{_SAME} after prefix '{prefix}'" if prefix else same))
    found = _coupled(source, target, couples=couples)
    for key in sorted(doubtful):
        left = [index for index in range(len(source)) if ours.reached(index, doubtful) == key]
        free = [index for index in range(len(target)) if theirs.reached(index, doubtful) == key]
        aligned = _by_alignment(source, target, left=left, free=free)
        found.pairs += aligned.pairs
        found.notes += aligned.notes
    return found


def _inside_one(source: Sequence[Weight], target: Sequence[Weight]) -> _Matches:
    """Match the weights of an inner network to the only container in the `target` that holds the same ones at the same places."""
    bases, fits = address_bases([*source, *target]), dict[tuple[int, ...], _Matches]()
    ours = {name: index for index, name in enumerate(Places(source, bases, everything=False).names)}
    rows = [weight.name.split(".") for weight in target]
    for container in {".".join(parts[:count]) + "." for parts in rows for count in range(1, len(parts))}:
        inside = [at for at, weight in enumerate(target) if weight.name.startswith(container)]
        if len(inside) != len(source):
            continue
        own = [target[at] for at in inside]
        bare = [replace(one, name=one.name.removeprefix(container), layer=one.layer.removeprefix(container)) for one in own]
        names = Places(bare, bases, everything=False).names
        if set(names) == set(ours) and all(source[ours[name]].shape == one.shape for name, one in zip(names, own, strict=True)):
            fits[tuple(inside)] = _Matches([(ours[name], at, _PLACE) for name, at in zip(names, inside, strict=True)])
    return next(iter(fits.values())) if len(fits) == 1 else _Matches()


def _best_prefix(names: Mapping[int, str], places: Mapping[str, int]) -> tuple[str, dict[int, str]]:
    """Return the prefix whose removal or addition makes most names equal, and the names changed accordingly."""
    options = [("", dict(names))]
    for prefix in _prefixes(names.values()):
        options.append((prefix, {index: name[len(prefix) :] for index, name in names.items() if name.startswith(prefix)}))
    options += [(prefix, {index: prefix + name for index, name in names.items()}) for prefix in _prefixes(places)]
    return max(options, key=lambda option: sum(name in places for name in option[1].values()))


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the known prefixes and all prefixes common to the names, also nested ones ("module.model.")."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    common = [".".join(shared[:count]) + "." for count in range(1, len(shared) + 1)]
    return list(dict.fromkeys([*_PREFIXES, *common]))


def _by_tail(source: Sequence[Weight], target: Sequence[Weight]) -> _Matches:
    """Match names by their longest common suffix, for prefixes that differ from layer to layer.
    A suffix must be unique on each side, and its first part must not be a number."""
    couples, ours, theirs = list[tuple[int, int, str]](), _parts(source), _parts(target)
    most = max((len(parts) for parts in (*ours.values(), *theirs.values())), default=0)
    for length in range(most, 1, -1):
        first, second = _ends(ours, length), _ends(theirs, length)
        for end in first.keys() & second.keys():
            couples.append((first[end], second[end], _TAIL))
            del ours[first[end]], theirs[second[end]]
    return _coupled(source, target, couples=couples)


def _parts(weights: Sequence[Weight]) -> dict[int, tuple[str, ...]]:
    return {index: tuple(weight.name.replace("/", ".").split(".")) for index, weight in enumerate(weights)}


def _ends(names: Mapping[int, tuple[str, ...]], length: int) -> dict[tuple[str, ...], int]:
    """Return the suffixes of `length` parts that belong to exactly one weight, with its index."""
    ends = [(parts[-length:], index) for index, parts in names.items() if len(parts) >= length and not parts[-length].isdecimal()]
    counts = Counter(end for end, _ in ends)
    return {end: index for end, index in ends if counts[end] == 1}


# ── by order, by alignment ───────────────────────────────────────────────────────────────────────────────────────────────


def _layers(weights: Sequence[Weight], indices: Iterable[int]) -> list[list[int]]:
    """Return the indices grouped by consecutive weights of the same layer."""
    return [list(group) for _, group in groupby(indices, key=lambda index: weights[index].layer)]


def _by_order(source: Sequence[Weight], target: Sequence[Weight], *, head: Collection[str]) -> _Matches | None:
    """Match the n-th weight to the n-th if all shapes agree except those of the head (default: the last layer); else return None.
    The head may be missing in the file, or in the network if `head` is empty."""
    if not source or not target:
        return None
    heads = {index for index, weight in enumerate(target) if weight.layer in (head or {target[-1].layer})}
    body = [index for index in range(len(target)) if index not in heads]
    given = [weight.shape for weight in source]
    last = len(_layers(source, range(len(source)))[-1])
    whole = len(source) == len(target) and all(given[index] == target[index].shape for index in body)
    without_head = bool(body) and given == [target[index].shape for index in body]
    with_head = not head and given[:-last] == [weight.shape for weight in target]
    if not (whole or without_head or with_head):
        return None
    places = body if without_head else range(len(target))
    found = _coupled(source, target, couples=[(index, at, ORDER) for index, at in enumerate(places)])
    found.notes.append(_PROVES_NOTHING)
    return found if found.pairs else None


def _by_alignment(source: Sequence[Weight], target: Sequence[Weight], *, left: Iterable[int], free: Iterable[int]) -> _Matches:
    """Match as many layers as possible in order, by the shapes of their weights; more than one largest alignment is an error."""
    ours, theirs = _layers(source, left), _layers(target, free)
    first = [tuple(source[index].shape for index in group) for group in ours]
    second = [tuple(target[index].shape for index in group) for group in theirs]
    options = _alignments(first, second, limit=_MOST_WAYS)
    if len(options) > 1:
        raise AmbiguousMatchError(_ambiguity(source, target, ours=ours, theirs=theirs, options=options))
    found = _Matches([(a, b, _ALIGNED) for one, two in options[0] for a, b in zip(ours[one], theirs[two], strict=True)])
    if found.pairs:
        found.notes.append(_PROVES_NOTHING)
    return found


def _alignments(first: Sequence[object], second: Sequence[object], *, limit: int) -> list[tuple[tuple[int, int], ...]]:
    """Return at most `limit` largest order-preserving alignments of two sequences as pairs of positions."""
    sizes = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]  # of the largest alignment of the first i and the first j
    for i, one in enumerate(first, 1):
        for j, two in enumerate(second, 1):
            sizes[i][j] = max(sizes[i - 1][j], sizes[i][j - 1], sizes[i - 1][j - 1] + (one == two))
    found: list[tuple[tuple[int, int], ...]] = []
    waiting: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(len(first), len(second), ())]
    while waiting and len(found) < limit:
        i, j, pairs = waiting.pop()
        size = sizes[i][j]
        if size == 0:
            found.append(pairs)
            continue
        # (a, b) is the last remaining pair; each alignment has exactly one sequence of last pairs, so none is found twice
        for a in range(1, i + 1):
            waiting += [
                (a - 1, b - 1, ((a - 1, b - 1), *pairs))
                for b in range(1, j + 1)
                if first[a - 1] == second[b - 1] and sizes[a - 1][b - 1] == size - 1
            ]
    return found


def _ambiguity(  # over the limit: both sides, and how they fit
    source: Sequence[Weight], target: Sequence[Weight], *, ours: list[list[int]], theirs: list[list[int]], options: Sequence[_Pairs]
) -> str:
    places: dict[int, set[int]] = {}
    for one, two in (pair for option in options for pair in option):
        places.setdefault(one, set()).add(two)
    several = {one: two for one, two in places.items() if len(two) > 1} or places
    lines = [
        f"'{source[ours[one][0]].layer}' could be " + " or ".join(repr(target[theirs[at][0]].layer) for at in sorted(two))
        for one, two in list(several.items())[:6]
    ]
    count = f"{_MOST_WAYS} or more" if len(options) == _MOST_WAYS else str(len(options))
    return (
        f"The weights fit the network in {count} ways, {len(ours)} layers of the file on {len(theirs)} of the network: {'; '.join(lines)}. "
        "Nothing was taken. Expected one way: build the network with the architecture and the layer names that it had when the weights "
        "were saved, or open the file as its own network first and change that one (regraft.retarget, regraft.extend)."
    )


def _rest_reshaped(source: Sequence[Weight], target: Sequence[Weight], *, found: _Matches, head: Collection[str]) -> _Matches:
    """Record the file's last layer as a reshaped head if neither it nor the head is matched."""
    taken = found.taken()
    free = [index for index, weight in enumerate(target) if weight.layer in head and index not in taken]
    groups = _layers(source, range(len(source)))
    if free and groups and len(groups[-1]) == len(free) and not found.used() & set(groups[-1]):
        found.reshaped += list(zip(groups[-1], free, strict=True))
    return found
