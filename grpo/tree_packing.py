"""Rows that share a prefix as one row in which the prefix appears once, with the same loss.

A prompt's rollouts share the prompt, and in a rollout tree the tokens up to where they branch. A
causal model gives shared tokens the same log-probabilities in every row, so they need to go
through it once. `pack_trees` finds the prefixes in the tokens themselves. Then the loss:

    sum over rows of w_i * f(A_i)  =  P * f(1) + M * f(-1)
    P = sum of w_i * max(A_i, 0)      M = sum of w_i * max(-A_i, 0)

for a token with weights w_i and advantages A_i in the rows that contain it. It holds for every f
with f(a * A) = a * f(A) for a >= 0, as the clipped surrogate and its relatives are. P and M must
not be netted: a clipped f is not odd. A divergence penalty takes the sum of w_i.

It does not hold for what depends on a whole row: GSPO's ratio and the sequence mask.

R packed rows, L columns. Tokens of a tree stand in depth-first order, so those that continue a
token are the columns after it up to where its subtree ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cotree.grpo.types import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(slots=True)
class TreeBatch(Batch):
    """A batch each of whose rows is a tree; `weights` and the like are sums over its leaves.

    `token_ids`, `mask` and `behavior_logprobs` are the tokens' own; `lengths` counts the tokens
    of a tree; `weights` sums the weights of the rows that a token stands for, and `advantages` is
    (P - M) / weights, their mean, for reading: the loss takes P and M.
    """

    parents: Tensor
    """[R, L] int64, the column of the token before each; a tree's first token has its own."""
    subtree_ends: Tensor
    """[R, L] int64, the column after the last token that continues each. Padding sees itself."""
    positive: Tensor
    """[R, L] float32, P."""
    negative: Tensor
    """[R, L] float32, M."""
    num_positive: Tensor
    """[R, L] int64, rows with a positive advantage at the token; zero outside `mask`."""
    num_negative: Tensor
    """[R, L] int64."""
    num_rows: Tensor
    """[R, L] int64, rows that train on the token."""

    def visible(self) -> Tensor:
        """[R, L, L] bool: the column of the second index is the first's own or an ancestor's."""
        columns = torch.arange(self.token_ids.shape[1], device=self.token_ids.device)
        before = columns[None, :] <= columns[:, None]
        return before & (columns[:, None] < self.subtree_ends[:, None, :])


def pack_trees(batch: Batch, *, max_tokens: int, balance: float) -> TreeBatch:
    """The same step with every prefix that rows share stored once. Exact for any rows.

    Tokens are shared where they, everything before them, their masks and their behaviour
    log-probabilities are equal. Rows of different prompts are never put together, however their
    prompts begin.

    Args:
        batch: rows of at least one token. Its mask is False at position 0.
        max_tokens: most tokens of a tree: a larger one is cut between leaves, and the pieces
            share nothing. A single row may be longer.
        balance: tokens of a row at which attention costs as much as all else that the model does.
            A tree of L tokens costs L * (1 + L / balance), for its mask is dense, so a row joins a
            tree only where that is cheaper than a row apart. Infinity: always.

    Returns:
        One row per tree, in the order in which prompts first appear.
    """
    keys = _keys(batch)
    by_prompt: dict[tuple[object, ...], list[int]] = {}
    for row, key in enumerate(keys):
        trained = next((at for at, token in enumerate(key) if token[1]), len(key))
        by_prompt.setdefault(tuple(key[:trained]), []).append(row)
    trees: list[_Tree] = []
    for rows in by_prompt.values():
        # In lexical order, a row shares the longest prefix with the row before it.
        tree = _Tree()
        for row in sorted(rows, key=keys.__getitem__):
            if tree.rows and not tree.gains(keys[row], max_tokens=max_tokens, balance=balance):
                trees.append(tree)
                tree = _Tree()
            tree.add(row, keys[row])
        trees.append(tree)
    return _packed(batch, trees)


_Key = tuple[int, bool, float]
"""What tokens must have in common to be the same: id, mask and behaviour log-probability."""


def _keys(batch: Batch) -> list[list[_Key]]:
    """Per row, the keys of its real tokens."""
    rows = zip(
        batch.token_ids.tolist(),
        batch.mask.tolist(),
        batch.behavior_logprobs.where(batch.mask, 0.0).tolist(),
        batch.lengths.tolist(),
        strict=True,
    )
    return [
        list(zip(ids[:length], mask[:length], logprobs[:length], strict=True))
        for ids, mask, logprobs, length in rows
    ]


class _Tree:
    """Tokens of rows in depth-first order, grown row by row in lexical order."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.paths: list[list[int]] = []
        """Per row, the columns of its tokens."""
        self.parents: list[int] = []
        self.subtree_ends: list[int] = []
        self._last: Sequence[_Key] = ()

    def gains(self, key: Sequence[_Key], *, max_tokens: int, balance: float) -> bool:
        """Whether the row fits, and costs less in this tree than apart."""
        size, shared = len(self.parents), self._shared(key)
        joined = size + len(key) - shared
        added_pairs = joined**2 - size**2 - len(key) ** 2
        return joined <= max_tokens and added_pairs / balance <= shared

    def add(self, row: int, key: Sequence[_Key]) -> None:
        shared, start = self._shared(key), len(self.parents)
        end = start + len(key) - shared
        path = (self.paths[-1][:shared] if self.paths else []) + list(range(start, end))
        self.parents += [path[max(0, at - 1)] for at in range(shared, len(path))]
        self.subtree_ends += [end] * (end - start)
        for column in path:
            self.subtree_ends[column] = end
        self.rows.append(row)
        self.paths.append(path)
        self._last = key

    def _shared(self, key: Sequence[_Key]) -> int:
        """Tokens that the row has in common with the last one."""
        count = 0
        for ours, theirs in zip(self._last, key, strict=False):
            if ours != theirs:
                break
            count += 1
        return count


def _packed(batch: Batch, trees: Sequence[_Tree]) -> TreeBatch:
    """The trees as right-padded tensors; sums over rows are made in float64."""
    lengths = torch.tensor([len(tree.parents) for tree in trees], dtype=torch.int64)
    shape = (len(trees), int(lengths.max()) if trees else 0)
    source, target = _occurrences(trees)

    def placed(values: Tensor) -> Tensor:
        """Any of the occurrences of a token is as good as another."""
        return torch.zeros(shape, dtype=values.dtype).index_put_(target, values[source])

    def summed(values: Tensor) -> Tensor:
        zeros = torch.zeros(shape, dtype=torch.float64)
        return zeros.index_put_(target, values.double()[source], accumulate=True)

    advantages = batch.advantages.where(batch.mask, 0.0)
    weights, dtype = batch.weights.double(), batch.weights.dtype
    weight = summed(weights)
    positive = summed(weights * advantages.clamp(min=0))
    negative = summed(weights * (-advantages).clamp(min=0))
    columns = torch.arange(shape[1])
    parents, subtree_ends = columns.repeat(len(trees), 1), columns.repeat(len(trees), 1) + 1
    for row, tree in enumerate(trees):
        parents[row, : len(tree.parents)] = torch.tensor(tree.parents)
        subtree_ends[row, : len(tree.parents)] = torch.tensor(tree.subtree_ends)
    return TreeBatch(
        token_ids=placed(batch.token_ids),
        lengths=lengths,
        mask=placed(batch.mask),
        behavior_logprobs=placed(batch.behavior_logprobs.where(batch.mask, 0.0)),
        advantages=((positive - negative) / weight.where(weight > 0, 1.0)).to(dtype),
        weights=weight.to(dtype),
        num_tokens=batch.num_tokens,
        parents=parents,
        subtree_ends=subtree_ends,
        positive=positive.to(dtype),
        negative=negative.to(dtype),
        num_positive=summed(advantages > 0).long(),
        num_negative=summed(advantages < 0).long(),
        num_rows=summed(batch.mask).long(),
    )


def _occurrences(trees: Sequence[_Tree]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Row and column of every token of every row, in the batch and in the trees."""
    rows: list[int] = []
    columns: list[int] = []
    numbers: list[int] = []
    places: list[int] = []
    for number, tree in enumerate(trees):
        for row, path in zip(tree.rows, tree.paths, strict=True):
            rows += [row] * len(path)
            columns += range(len(path))
            numbers += [number] * len(path)
            places += path
    return (torch.tensor(rows), torch.tensor(columns)), (
        torch.tensor(numbers),
        torch.tensor(places),
    )
