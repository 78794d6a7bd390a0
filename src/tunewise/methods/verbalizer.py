"""Find a word for each label among those that the base itself would say of the label's rows.

Axes: E rows, L labels, V vocabulary, H hidden, C candidate words.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from tunewise.models.asked import Asked
from tunewise.models.masked import Masked
from tunewise.models.tokens import Tokens

Read = Callable[[Sequence[str]], list[list[int]]]
"""The tokens of each of these words, where they are an answer."""
ROWS_PER_LABEL, MOST_ROWS = 16, 512
"""Rows of train that are read for it."""
LIKELIEST, CANDIDATES = 1000, 100
"""Of a label: its likeliest words, and those among them that its rows speak for most."""
ROUNDS = 5
READ_AT_ONCE = 64
"""Rows whose logits over the vocabulary are held at once."""


def read_rows(target_E: np.ndarray, digests: Sequence[str]) -> list[int]:
    """The rows that are read: of each label those with the smallest digests, as many as can be."""
    labels = np.unique(target_E)
    most = max(1, min(ROWS_PER_LABEL, MOST_ROWS // max(1, len(labels))))
    order = sorted(range(len(target_E)), key=lambda i: digests[i])
    return sorted(i for label in labels for i in [i for i in order if target_E[i] == label][:most])


def found_words(
    base: Asked, tokens: Tokens, target_E: np.ndarray, given: Mapping[str, str], read: Read
) -> dict[str, str]:
    """A word of one token for each label, in the order of `given`; a label without rows keeps what is given.

    `tokens`: rows as prompts, `target_E` the index of each row's label. First the words that the base finds likely in a
    label's rows (Gao et al. 2021, arXiv 2012.15723, section 4.1) and likelier there than in others (Schick et al. 2020,
    arXiv 2010.13641); among them the assignment under which the rows' labels are likeliest, one label's word changed at
    a time until none gets better. No weights are trained and no row of dev is read.
    """
    labels = list(given)
    rows_L = [np.flatnonzero(target_E == label) for label in range(len(labels))]
    log_EV = _log_probabilities(base, tokens)
    mean_V = np.mean([log_EV[rows].mean(axis=0) for rows in rows_L if len(rows)], axis=0)
    candidates = [_candidates(base, log_EV[rows].mean(axis=0), mean_V, read) if len(rows) else [] for rows in rows_L]
    known = [label for label in range(len(labels)) if candidates[label]]
    own = [candidates[label] for label in known]
    place = {label: i for i, label in enumerate(known)}
    if not known:
        return dict(given)
    learnt = np.flatnonzero(np.isin(target_E, known))
    taken = _assigned(log_EV[learnt], np.array([place[int(label)] for label in target_E[learnt]]), own)
    words = {label: _word(base, taken[place[i]]) if i in place else given[label] for i, label in enumerate(labels)}
    # a label that keeps its words may have those that were found for another
    doubled = {word for word in words.values() if list(words.values()).count(word) > 1}
    return {label: given[label] if word in doubled else word for label, word in words.items()}


def _log_probabilities(base: Asked, tokens: Tokens) -> np.ndarray:
    """Of every word as the answer to each row, float32."""
    vector_EH = base.at_answer().features_of(tokens)
    found = []
    with torch.inference_mode():
        for start in range(0, len(vector_EH), READ_AT_ONCE):
            some_EH = torch.from_numpy(vector_EH[start : start + READ_AT_ONCE]).to(base.device, base.dtype)
            logits_EV = base.decoder(some_EH) if isinstance(base, Masked) else base.read(some_EH)
            found.append(torch.log_softmax(logits_EV.float(), dim=-1).cpu().numpy())
    log_EV: np.ndarray = np.concatenate(found)
    return log_EV


def _candidates(base: Asked, log_V: np.ndarray, mean_V: np.ndarray, read: Read) -> list[int]:
    likely = np.argsort(-log_V, kind="stable")[:LIKELIEST]
    likely = likely[np.argsort(-(log_V - mean_V)[likely], kind="stable")]
    words = [_word(base, int(token)) for token in likely]
    again = read(words)
    # whole words only: read as an answer, each must be its one token again; a single letter stands for nothing
    whole = [
        int(token)
        for token, word, ids in zip(likely, words, again, strict=True)
        if word.isalpha() and ids == [token] and not (word.isascii() and len(word) == 1)
    ]
    return whole[:CANDIDATES]


def _word(base: Asked, token: int) -> str:
    return str(base.tokenizer.decode([token])).strip()


def _assigned(log_EV: np.ndarray, target_E: np.ndarray, candidates: Sequence[Sequence[int]]) -> list[int]:
    """One candidate for each label, no two the same where that can be."""
    taken: list[int] = []
    for own in candidates:
        taken.append(next((token for token in own if token not in taken), own[0]))
    count_L = np.bincount(target_E, minlength=len(candidates))
    weight_E = 1.0 / count_L[target_E]
    for _ in range(ROUNDS):
        before = list(taken)
        for label, own in enumerate(candidates):
            others = [token for other, token in enumerate(taken) if other != label]
            free = [token for token in own if token not in others] or [taken[label]]
            value_EC = log_EV[:, free].astype(np.float64)
            if others:
                rest_E1 = np.logaddexp.reduce(log_EV[:, others].astype(np.float64), axis=1)[:, None]
                of_target_E = log_EV[np.arange(len(target_E)), np.array(taken)[target_E]].astype(np.float64)
                own_EC = np.where(target_E[:, None] == label, value_EC, of_target_E[:, None])
                gain_C = weight_E @ (own_EC - np.logaddexp(value_EC, rest_E1))
                taken[label] = free[int(np.argmax(gain_C))]
        if taken == before:
            break
    return taken
