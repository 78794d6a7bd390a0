"""Token sequences that begin alike, laid out so that what they share is computed once.

A trunk is a beginning that many sequences share; it is computed alone, and what it leaves behind is read by all that
follow. A bundle is what hangs below a trunk (or below nothing) and is small enough to be computed together: a branching
of tokens laid out in a row, in which each token sees its own ancestors only. Few tokens that happen to be shared are
computed for each sequence anew where that is less work.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

BUNDLE_TOKENS = 256
"""Most tokens of a branching that is computed together."""
TOKEN = 1024
"""What a token costs besides attention, in tokens that it looks at: 6 times the hidden size of a Llama's layer by
arithmetic, which products of matrices need half as long for."""
TRUNK_TOKENS = 64
"""What a pass over a trunk alone costs besides its tokens, in tokens."""


@dataclass(frozen=True)
class Request:
    """A continuation to be scored after a context."""

    context: np.ndarray
    """Token ids, one at least."""
    continuation: np.ndarray
    """Token ids, one at least."""

    @property
    def read(self) -> np.ndarray:
        """What is read to score it: all tokens but the last."""
        return np.concatenate([self.context, self.continuation[:-1]])


@dataclass(frozen=True)
class Mark:
    """A token whose probability is wanted after the token at this place of a segment."""

    place: int
    token: int
    request: int
    number: int
    """Which token of the request's continuation it is."""


@dataclass(eq=False)
class Segment:
    """Tokens that follow one another without a branch, and what branches off behind them."""

    ids: np.ndarray
    start: int
    """Tokens before it."""
    children: list["Segment"] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    total: int = 0
    """Tokens of it and of all below it."""

    def below(self) -> Iterator[tuple["Segment", "Segment | None"]]:
        """It and every segment below, each with its parent, parents first."""
        waiting: list[tuple[Segment, Segment | None]] = [(self, None)]
        while waiting:
            segment, parent = waiting.pop()
            yield segment, parent
            waiting += [(child, segment) for child in reversed(segment.children)]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A branching of N tokens in a row."""

    ids: np.ndarray
    """[N]."""
    position: np.ndarray
    """How many tokens each has before it on its own path, trunks included, [N]."""
    sees: np.ndarray | None
    """Whether token i (row) sees token j, [N, N]; None: those before it and itself."""
    marks: list[Mark]
    """Their `place` is one of the N."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """A beginning that is computed alone, and what follows it."""

    bundle: Bundle
    below: "Forest"


@dataclass(frozen=True, eq=False)
class Forest:
    """What follows on the same tokens."""

    bundles: list[Bundle] = field(default_factory=list)
    trunks: list[Trunk] = field(default_factory=list)


def forest(segments: Sequence[Segment], *, every_trunk: bool = False) -> Forest:
    """What is computed at these segments and below them, and in which pieces; `every_trunk`: whatever branches is one.

    Nothing is lost, and nothing but what is cheap stands twice.
    """
    found = Forest()
    waiting = list(reversed(segments))
    while waiting:
        segment = waiting.pop()
        if not segment.children:
            found.bundles.append(bundle_of(segment))
        elif len(segment.children) == 1 and not every_trunk:
            waiting.append(_after(segment, segment.children[0], segment.marks))
        else:
            cheapest = "alone" if every_trunk else _cheapest(segment)
            if cheapest == "together":
                found.bundles.append(bundle_of(segment))
            elif cheapest == "alone":
                below = forest(segment.children, every_trunk=every_trunk)
                found.trunks.append(Trunk(bundle_of(segment, alone=True), below))
            else:
                first, *others = segment.children
                waiting += [_after(segment, child, []) for child in reversed(others)]
                waiting.append(_after(segment, first, segment.marks))
    return found


def _cheapest(segment: Segment) -> str:
    """Whether a branching is computed "together", its beginning "alone" before the rest, or its branches "apart"."""
    size = len(segment.ids)
    costs = {
        "together": _cost(segment.total) if segment.total <= BUNDLE_TOKENS else np.inf,
        "alone": _cost(size) + TRUNK_TOKENS * TOKEN + sum(_cost(child.total) for child in segment.children),
        "apart": sum(_cost(size + child.total) for child in segment.children),
    }
    return min(costs, key=lambda way: costs[way])


def _cost(tokens: int) -> float:
    """Of tokens in bundles, in tokens that are looked at."""
    return tokens * (TOKEN + min(tokens, BUNDLE_TOKENS))


def _after(segment: Segment, child: Segment, marks: Sequence[Mark]) -> Segment:
    """A branch with the tokens before it, of which these marks are wanted here."""
    size = len(segment.ids)
    own = [Mark(size + mark.place, mark.token, mark.request, mark.number) for mark in child.marks]
    return Segment(
        ids=np.concatenate([segment.ids, child.ids]),
        start=segment.start,
        children=child.children,
        marks=[*marks, *own],
        total=size + child.total,
    )


def bundle_of(segment: Segment, *, alone: bool = False) -> Bundle:
    """The branching at a segment; `alone`: the segment without what is below it."""
    if alone or not segment.children:
        position = np.arange(segment.start, segment.start + len(segment.ids))
        return Bundle(segment.ids, position, None, segment.marks)
    parts = list(segment.below())
    size = sum(len(part.ids) for part, _ in parts)
    sees = np.zeros((size, size), dtype=bool)
    start_of: dict[int, int] = {}
    position = np.empty(size, dtype=np.int64)
    marks: list[Mark] = []
    end = 0
    for part, parent in parts:
        start, end = end, end + len(part.ids)
        start_of[id(part)] = start
        if parent is not None:
            sees[start:end] = sees[start_of[id(parent)] + len(parent.ids) - 1]
        sees[start:end, start:end] = np.tri(len(part.ids), dtype=bool)
        position[start:end] = np.arange(part.start, part.start + len(part.ids))
        marks += [Mark(start + mark.place, mark.token, mark.request, mark.number) for mark in part.marks]
    return Bundle(np.concatenate([part.ids for part, _ in parts]), position, sees, marks)


def prefix_tree(requests: Sequence[Request]) -> list[Segment]:
    """The segments that begin the sequences of all requests; together they hold every token that must be read once."""
    if not requests:
        return []
    read = [np.ascontiguousarray(request.read, dtype=">i4") for request in requests]
    names = [ids.tobytes() for ids in read]
    # big-endian bytes sort as the ids do, so that sequences that begin alike stand together
    order = sorted(range(len(requests)), key=lambda i: names[i])
    distinct = [i for place, i in enumerate(order) if place == 0 or names[order[place - 1]] != names[i]]
    shared = np.array([0, *(_alike(read[a], read[b]) for a, b in itertools.pairwise(distinct))])
    leaf_of: dict[bytes, list[Segment]] = {}
    roots = _grown([read[i] for i in distinct], shared, [names[i] for i in distinct], leaf_of)
    for number, request in enumerate(requests):
        _mark(request, number, leaf_of[names[number]])
    return roots


def _alike(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(one), len(other))
    apart = np.flatnonzero(one[:length] != other[:length])
    return int(apart[0]) if len(apart) else length


def _grown(
    read: Sequence[np.ndarray], shared: np.ndarray, names: Sequence[bytes], leaf_of: dict[bytes, list[Segment]]
) -> list[Segment]:
    """Segments of sorted distinct sequences, of which each shares `shared[i]` tokens with the one before it.

    `leaf_of` is filled with the path of segments of each sequence.
    """
    roots: list[Segment] = []
    waiting: list[tuple[int, int, int, list[Segment]]] = [(0, len(read), 0, [])]
    made: list[list[Segment]] = []
    while waiting:
        low, high, depth, path = waiting.pop()
        inner = shared[low + 1 : high]
        until = int(inner.min()) if len(inner) else len(read[low])
        if until > depth:
            segment = Segment(ids=read[low][depth:until].astype(np.int64), start=depth)
            (path[-1].children if path else roots).append(segment)
            path = [*path, segment]
            made.append(path)
        if len(read[low]) == until:
            # it ends here, others may go on: it is the first of them, being the shortest
            leaf_of[names[low]] = path
            low += 1
        if low < high:
            cuts = [low, *(low + 1 + np.flatnonzero(shared[low + 1 : high] <= until)).tolist(), high]
            waiting += [(a, b, until, path) for a, b in reversed(list(itertools.pairwise(cuts)))]
    for path in reversed(made):
        own = path[-1]
        own.total = len(own.ids) + sum(child.total for child in own.children)
    return roots


def _mark(request: Request, number: int, path: Sequence[Segment]) -> None:
    """Note at the segments of a request's path which probabilities it wants there."""
    for i, token in enumerate(request.continuation):
        after = len(request.context) - 1 + i
        segment = next(part for part in reversed(path) if part.start <= after)
        segment.marks.append(Mark(after - segment.start, int(token), number, i))
