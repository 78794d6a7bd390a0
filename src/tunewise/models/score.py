"""Log-probabilities of continuations under a causal base, with everything they share computed once.

Axes: B bundles of a pass, N tokens of the longest, S places whose next token is wanted, V vocabulary, H hidden.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tunewise.models.causal import Causal
from tunewise.models.packed import packed
from tunewise.models.precision import fast_float32
from tunewise.models.prefix_tree import Bundle, Mark, Request, Segment, bundle_of, prefix_tree
from tunewise.models.tokens import by_length
from tunewise.models.tree import shared_tree
from tunewise.models.tree_attention import NAME, Kept, NotForTrees, Pass, during, register

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
            self._tree = packed(tree, PASS_TOKENS_CPU, lambda model: _hidden(model, requests[longest].read, self.base))
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
        runner = _Runner(self.base, self._tree, found, every_trunk=every_trunk)
        runner.below(prefix_tree(requests), None, 0)

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
    """Computes a tree of segments, trunks first, each from what its own trunk left behind."""

    def __init__(self, base: Causal, tree: nn.Module, found: list[np.ndarray], *, every_trunk: bool) -> None:
        self.base, self.tree, self.found, self.every_trunk = base, tree, found, every_trunk

    def _is_trunk(self, segment: Segment) -> bool:
        return segment.is_trunk or (self.every_trunk and bool(segment.children))

    def below(self, segments: Sequence[Segment], trunk: Kept | None, start: int) -> None:
        """Everything that hangs at these segments, which follow on the trunk's `start` tokens."""
        trunks = [segment for segment in segments if self._is_trunk(segment)]
        bundles = [bundle_of(segment) for segment in segments if not self._is_trunk(segment)]
        for batch in _batches(bundles, self._room(bundles, start)):
            self._pass(batch, trunk, start, keep=False)
        alone = [bundle_of(segment, alone=True) for segment in trunks]
        for picks in by_length(np.array([len(bundle.ids) for bundle in alone]), self._room(alone, start)):
            kept = self._pass([alone[i] for i in picks], trunk, start, keep=True)
            for row, i in enumerate(picks):
                own = {
                    module: tuple(
                        _joined(None if trunk is None else trunk[module][part], both[part][row, :, : len(alone[i].ids)])
                        for part in (0, 1)
                    )
                    for module, both in kept.items()
                }
                self.below(trunks[i].children, own, start + len(alone[i].ids))  # type: ignore[arg-type]

    def _room(self, bundles: Sequence[Bundle], start: int) -> int:
        """Padded tokens of a pass over bundles that follow on so many tokens."""
        longest = start + max((len(bundle.ids) for bundle in bundles), default=0)
        return _room(self.base, longest)

    def _pass(self, bundles: Sequence[Bundle], trunk: Kept | None, start: int, *, keep: bool) -> Kept:
        """One forward pass over bundles that follow on the same trunk; their keys and values [B, G, N, D]."""
        width = max(len(bundle.ids) for bundle in bundles)
        ids_BN = np.full((len(bundles), width), self.base.pad_id)
        position_BN = np.full((len(bundles), width), start)
        # padding sees itself, so that its softmax is a number
        sees_BNN = np.tile(np.eye(width, dtype=bool), (len(bundles), 1, 1))
        for row, bundle in enumerate(bundles):
            size = len(bundle.ids)
            ids_BN[row, :size], position_BN[row, :size] = bundle.ids, bundle.position
            sees_BNN[row, :size, :size] = bundle.sees
        device = self.base.device
        longest = int(position_BN.max()) + 1
        with during(Pass(trunk=trunk, keep=keep, longest=longest)) as now:
            output = self.tree(
                input_ids=torch.from_numpy(ids_BN).to(device),
                position_ids=torch.from_numpy(position_BN).to(device),
                attention_mask=torch.from_numpy(sees_BNN[:, None]).to(device),
                use_cache=False,
            )
        marks = [(row, mark) for row, bundle in enumerate(bundles) for mark in bundle.marks]
        _note_down(self.base, output.last_hidden_state, marks, self.found)
        return now.kept


def _hidden(model: nn.Module, read: np.ndarray, base: Causal) -> Tensor:
    """Last hidden states of one sequence, by a tree with the attention of trees."""
    ids = torch.from_numpy(np.ascontiguousarray(read)).to(base.device)[None]
    sees = torch.ones(len(read), len(read), dtype=torch.bool, device=base.device).tril()[None, None]
    places = torch.arange(len(read), device=base.device)[None]
    with during(Pass(trunk=None, longest=len(read))):
        hidden: Tensor = model(
            input_ids=ids, position_ids=places, attention_mask=sees, use_cache=False
        ).last_hidden_state
    return hidden


def _joined(before: Tensor | None, own: Tensor) -> Tensor:
    return own.contiguous() if before is None else torch.cat([before, own], dim=1)


def _batches(bundles: Sequence[Bundle], budget: int) -> Iterator[list[Bundle]]:
    for picks in by_length(np.array([len(bundle.ids) for bundle in bundles], dtype=np.int64), budget):
        yield [bundles[i] for i in picks]


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
        logits_SV = base.read(hidden_SH[start : start + step]).float()
        total_S = torch.logsumexp(logits_SV, dim=-1)
        rows = torch.from_numpy(row_M[inside] - start).to(logits_SV.device)
        picked = logits_SV[rows, torch.from_numpy(token_M[inside]).to(logits_SV.device)] - total_S[rows]
        value_M[inside] = picked.double().cpu().numpy()
    for (_, mark), value in zip(marks, value_M, strict=True):
        found[mark.request][mark.number] = value
