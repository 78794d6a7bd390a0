"""Log-probabilities of continuations under a causal base, with everything they share computed once.

Axes: B bundles of a pass, N tokens of the longest, S places whose next token is wanted, V vocabulary, H hidden.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.models.causal import Causal
from tunewise.models.narrowed import last_modules, narrowed
from tunewise.models.packed import packed
from tunewise.models.precision import fast_float32
from tunewise.models.prefix_tree import Bundle, Forest, Mark, Request, forest, prefix_tree
from tunewise.models.tokens import by_length
from tunewise.models.tree import shared_tree
from tunewise.models.tree_attention import NAME, Group, Kept, NotForTrees, Pass, Reading, during, register

PASS_TOKENS_CPU, PASS_TOKENS_DEVICE = 2048, 65536
"""Padded tokens of a forward pass."""
ATTENTION = 1 << 28
"""Attention weights of a layer, over all heads, that are held at once: 1 GiB in float32."""
LOGITS = 1 << 24
"""Numbers of the vocabulary's logits that are held at once."""
SAME, SAME_BF16 = 1e-4, 0.5
"""Largest difference of log-probabilities between shared and plain computing that is rounding; logits of 16 to 32 have
steps of 0.125 in bf16."""
TRIED = 8
"""Neighbours, from the start and from the middle, on which it is seen whether sharing changes anything."""
SIMILAR = 0.7
"""Bundles at least so long, beside the longest of a group, are padded to its length for attention."""

_Hanging = tuple[Bundle, tuple[Kept, ...]]
"""A bundle and the trunks it follows on, in order."""


class Scorer:
    """Scores continuations on one causal base, or on a module tree that was adapted from it."""

    def __init__(self, base: Causal) -> None:
        self.base, self.body = base, base.model
        self.note: str | None = None
        """Why what is shared is computed anew for every continuation; None where it is not, or nothing was scored."""
        self._tree: nn.Module | None = None
        self._tried = False

    def shares(self, requests: Sequence[Request]) -> bool:
        """Whether what requests have in common is computed once here; found by trying, the first time."""
        if requests and not self._tried:
            with torch.inference_mode(), fast_float32():
                self._try(requests)
        return self._tree is not None

    def tokens(self, requests: Sequence[Request]) -> int:
        """Tokens that are computed to score these: what they share is computed once, where the base allows it."""
        if not self.shares(requests):
            return sum(len(request.read) for request in requests)
        return sum(segment.total for segment in prefix_tree(requests))

    def score(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Natural-log probability of each token of each request's continuation, float64.

        What is returned does not depend, but for rounding, on what else is scored in the same call.
        """
        if not requests:
            return []
        found = [np.zeros(len(request.continuation)) for request in requests]
        shared = self.shares(requests)
        with torch.inference_mode(), fast_float32():
            try:
                if shared:
                    self._by_tree(requests, found)
            except NotForTrees as error:  # these are longer than those that were tried
                self.note, shared = self._why(str(error)), False
            if not shared:
                self._plainly(requests, found)
        return found

    def _try(self, requests: Sequence[Request]) -> None:
        """See that this architecture gives the same answers either way; else it is scored plainly."""
        self._tried = True
        middle = len(requests) // 2
        longest = max(range(len(requests)), key=lambda i: len(requests[i].context))
        few = [*requests[:TRIED], *requests[middle : middle + TRIED], requests[longest]]
        plain = [np.zeros(len(request.continuation)) for request in few]
        self._plainly(few, plain)
        register()
        tree = shared_tree(self.base.model)
        tree.config._attn_implementation = NAME  # type: ignore[union-attr]
        gaps = []
        try:
            self._tree = packed(
                narrowed(tree), PASS_TOKENS_CPU, lambda model: _hidden(model, requests[longest].read, self.base)
            )
            for every_trunk in (False, True):
                shared = [np.zeros(len(request.continuation)) for request in few]
                self._by_tree(few, shared, every_trunk=every_trunk)
                gaps += [float(np.abs(a - b).max(initial=0.0)) for a, b in zip(plain, shared, strict=True)]
        except torch.OutOfMemoryError:
            raise
        except (NotForTrees, RuntimeError, TypeError, AttributeError, KeyError, ValueError) as error:
            self.note, self._tree = self._why(str(error)), None
            return
        if not max(gaps) <= (SAME_BF16 if self.base.dtype == torch.bfloat16 else SAME):
            self.note, self._tree = self._why(f"differs by {max(gaps):.1e}"), None

    def _why(self, reason: str) -> str:
        return f"{self.base.info.name}: prompts are computed anew for every answer ({reason})"

    # --- sharing

    def _by_tree(self, requests: Sequence[Request], found: list[np.ndarray], *, every_trunk: bool = False) -> None:
        """`every_trunk`: every segment that branches is computed alone."""
        assert self._tree is not None
        whole = forest(prefix_tree(requests), every_trunk=every_trunk)
        _Runner(self.base, self._tree, found).run([(whole, ())])

    # --- one by one

    def _plainly(self, requests: Sequence[Request], found: list[np.ndarray]) -> None:
        read = [request.read for request in requests]
        budget = _room(self.base, max(map(len, read)))
        for picks in by_length(np.array([len(ids) for ids in read]), budget):
            width = max(len(read[i]) for i in picks)
            ids_BN = np.full((len(picks), width), self.base.pad_id)
            mask_BN = np.zeros((len(picks), width), dtype=np.int64)
            marks: list[tuple[int, Mark]] = []
            for row, i in enumerate(picks):
                ids_BN[row, : len(read[i])], mask_BN[row, : len(read[i])] = read[i], 1
                first = len(requests[i].context) - 1
                marks += [
                    (row, Mark(first + k, int(token), int(i), k)) for k, token in enumerate(requests[i].continuation)
                ]
            device = self.base.device
            output = self.base.model(
                input_ids=torch.from_numpy(ids_BN).to(device), attention_mask=torch.from_numpy(mask_BN).to(device)
            )
            _note_down(self.base, output.last_hidden_state, marks, found)


class _Runner:
    """Computes forests, trunks first, each from what its own trunks left behind."""

    def __init__(self, base: Causal, tree: nn.Module, found: list[np.ndarray]) -> None:
        self.base, self.tree, self.found = base, tree, found
        self.last = last_modules(tree)

    def run(self, hanging: Sequence[tuple[Forest, tuple[Kept, ...]]]) -> None:
        """Everything in these forests, each of which follows on its trunks; all have equally many."""
        bundles = [(bundle, path) for below, path in hanging for bundle in _longest_first(below.bundles)]
        for batch in self._batches(bundles):
            self._pass(batch, keep=False)
        trunks = [(trunk, path) for below, path in hanging for trunk in below.trunks]
        done = 0
        for batch in self._batches([(trunk.bundle, path) for trunk, path in trunks]):
            kept = self._pass(batch, keep=True)
            of_these = trunks[done : done + len(batch)]
            self.run([(trunk.below, (*path, own)) for (trunk, path), own in zip(of_these, kept, strict=True)])
            done += len(batch)

    def _batches(self, bundles: Sequence[_Hanging]) -> Iterator[list[_Hanging]]:
        """Bundles of a pass, in order: as many as there is room for, or one."""
        room = _room(self.base, max((int(bundle.position.max()) + 1 for bundle, _ in bundles), default=0))
        batch: list[_Hanging] = []
        tokens = 0
        for bundle, path in bundles:
            if batch and tokens + len(bundle.ids) > room:
                yield batch
                batch, tokens = [], 0
            batch.append((bundle, path))
            tokens += len(bundle.ids)
        if batch:
            yield batch

    def _pass(self, batch: Sequence[_Hanging], *, keep: bool) -> list[Kept]:
        """One forward pass over bundles that stand in a row; where `keep`, what each leaves behind."""
        device = self.base.device
        bundles = [bundle for bundle, _ in batch]
        start_B = np.cumsum([0, *(len(bundle.ids) for bundle in bundles)])
        marks = [
            Mark(int(start) + mark.place, mark.token, mark.request, mark.number)
            for start, bundle in zip(start_B, bundles, strict=False)
            for mark in bundle.marks
        ]
        groups, place_N = _groups(bundles, start_B, device)
        position_N = np.concatenate([bundle.position for bundle in bundles])
        wanted_S = torch.tensor(sorted({mark.place for mark in marks}), dtype=torch.long, device=device)
        now = Pass(
            groups=groups,
            place_N=place_N,
            readings=_readings([path for _, path in batch], start_B),
            keep=keep,
            longest=int(position_N.max()) + 1,
            wanted_S=wanted_S,
            last=self.last,
        )
        with during(now):
            output = self.tree(
                input_ids=torch.from_numpy(np.concatenate([bundle.ids for bundle in bundles]))[None].to(device),
                position_ids=torch.from_numpy(position_N)[None].to(device),
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # the pass says who sees whom
                use_cache=False,
            )
        _note_down(self.base, output.last_hidden_state, [(0, mark) for mark in marks], self.found)
        return [
            {module: (keys[:, a:b].clone(), values[:, a:b].clone()) for module, (keys, values) in now.kept.items()}
            for a, b in itertools.pairwise(start_B if keep else ())
        ]


def _longest_first(bundles: Sequence[Bundle]) -> list[Bundle]:
    return sorted(bundles, key=lambda bundle: -len(bundle.ids))


def _readings(paths: Sequence[tuple[Kept, ...]], start_B: np.ndarray) -> list[Reading]:
    """Which trunks are read by which tokens of bundles that stand in a row."""
    found = []
    for depth in range(len(paths[0])):
        first = 0
        for _, same in itertools.groupby(paths, key=lambda path: id(path[depth])):
            after = first + sum(1 for _ in same)
            found.append(Reading(int(start_B[first]), int(start_B[after]), paths[first][depth]))
            first = after
    return found


def _groups(bundles: Sequence[Bundle], start_B: np.ndarray, device: torch.device) -> tuple[list[Group], Tensor]:
    """Bundles in groups of one kind and similar length, and each token's place among those of all groups."""
    order = sorted(range(len(bundles)), key=lambda i: (bundles[i].sees is None, -len(bundles[i].ids)))
    groups, place_N, laid = [], np.empty(int(start_B[-1]), dtype=np.int64), 0
    while order:
        first = bundles[order[0]]
        width, chain = len(first.ids), first.sees is None
        size = next(
            (
                i
                for i, other in enumerate(order)
                if (bundles[other].sees is None) != chain or len(bundles[other].ids) < SIMILAR * width
            ),
            len(order),
        )
        picks, order = order[:size], order[size:]
        token_BT = np.zeros((size, width), dtype=np.int64)
        sees_BTT = None if chain else np.tile(np.eye(width, dtype=bool), (size, 1, 1))  # padding sees itself
        for row, i in enumerate(picks):
            length, start = len(bundles[i].ids), int(start_B[i])
            token_BT[row, :length] = np.arange(start, start + length)
            place_N[start : start + length] = np.arange(laid, laid + length)
            laid += width
            if sees_BTT is not None:
                sees_BTT[row, :length, :length] = bundles[i].sees
        mask_BTT = None
        if sees_BTT is not None:
            sees = torch.from_numpy(sees_BTT).to(device)
            mask_BTT = torch.zeros(sees.shape, device=device).masked_fill_(~sees, -torch.inf)
        groups.append(Group(torch.from_numpy(token_BT).to(device), mask_BTT))
    return groups, torch.from_numpy(place_N).to(device)


def _hidden(model: nn.Module, read: np.ndarray, base: Causal) -> Tensor:
    """Last hidden states of one sequence, by a tree with the attention of trees."""
    chain = Bundle(np.ascontiguousarray(read), np.arange(len(read)), None, [])
    groups, place_N = _groups([chain], np.array([0, len(read)]), base.device)
    with during(Pass(groups=groups, place_N=place_N, longest=len(read))):
        hidden: Tensor = model(
            input_ids=torch.from_numpy(chain.ids)[None].to(base.device),
            position_ids=torch.from_numpy(chain.position)[None].to(base.device),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=base.device),
            use_cache=False,
        ).last_hidden_state
    return hidden


def _room(base: Causal, seen: int) -> int:
    """Padded tokens of a pass whose tokens see so many: no more than suit the device, or than memory should hold."""
    heads = int(getattr(base.model.config, "num_attention_heads", 1))
    most = PASS_TOKENS_CPU if base.device.type == "cpu" else PASS_TOKENS_DEVICE
    return max(1, min(most, ATTENTION // (heads * max(1, seen))))


def _note_down(base: Causal, hidden_BNH: Tensor, marks: Sequence[tuple[int, Mark]], found: list[np.ndarray]) -> None:
    """Read the vocabulary at the marked places alone, and note the wanted tokens' log-probabilities."""
    places = {place: i for i, place in enumerate(dict.fromkeys((row, mark.place) for row, mark in marks))}
    if not places:
        return
    at = torch.tensor(list(places), device=hidden_BNH.device)
    hidden_SH = hidden_BNH[at[:, 0], at[:, 1]]
    row_M = np.array([places[row, mark.place] for row, mark in marks])
    token_M = np.array([mark.token for _, mark in marks])
    step = max(1, LOGITS // base.vocabulary)
    value_M = np.empty(len(marks))
    for start in range(0, len(places), step):
        inside = (row_M >= start) & (row_M < start + step)
        log_SV = torch.log_softmax(base.read(hidden_SH[start : start + step]).float(), dim=-1)
        rows = torch.from_numpy(row_M[inside] - start).to(log_SV.device)
        picked = log_SV[rows, torch.from_numpy(token_M[inside]).to(log_SV.device)]
        value_M[inside] = picked.double().cpu().numpy()
    for (_, mark), value in zip(marks, value_M, strict=True):
        found[mark.request][mark.number] = value
