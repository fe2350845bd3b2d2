"""A tree of reasoning steps: what was generated from where, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cotree.rewards.types import Verdict
from cotree.search.types import Job, Reply, Step

ROOT = 0
"""The root's id: the question, before any step."""


@dataclass(slots=True)
class Node:
    """A step and the state after it. Statistics of the search belong to its strategy."""

    id: int
    """Position in the tree's list; a parent comes before its children."""
    parent: int
    """-1 of the root."""
    depth: int
    """Steps from the root."""
    key: tuple[int, ...]
    """Place in the tree, by the draws that led here: no matter when it was added. It seeds what
    is random about the node."""
    step: Step | None
    """None of the root."""
    restarts: bool = False
    """Its step begins a completion anew (a revision); it does not continue the parent's text."""
    is_refuted: bool = False
    """A step of the completion up to here is refuted."""
    children: list[int] = field(default_factory=list[int])
    count: int = 1
    """Times that this step was drawn after its parent."""
    draws: int = 0
    """Continuations of it that were asked for."""
    inflight: int = 0
    """Jobs under way whose path contains it (O)."""
    visits: int = 0
    """Replies that were backed up through it (N)."""
    value_sum: float = 0.0
    """Of their scores (W)."""
    prior: float | None = None
    """Probability of its step after its parent, as the strategy estimates it."""
    score: float | None = None
    """The judge's, of the state after it; None: it was not asked."""
    answer: str | None = None
    """Of the finished completion that ends here."""

    @property
    def is_open(self) -> bool:
        """The completion can go on after it."""
        return self.step is None or self.step.end == "boundary"

    @property
    def is_finished(self) -> bool:
        """The policy ended the completion here."""
        return self.step is not None and self.step.end == "stop"

    @property
    def num_tokens(self) -> int:
        """Of its step."""
        return len(self.step.token_ids) if self.step else 0

    @property
    def value(self) -> float | None:
        """Mean score of what was backed up through it (Q); None: nothing was."""
        return self.value_sum / self.visits if self.visits else None


class Tree:
    """Grows, never shrinks. Equal steps after one parent are one node, drawn several times."""

    def __init__(self) -> None:
        self.nodes: list[Node] = [Node(ROOT, -1, 0, (), None)]

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    @property
    def num_tokens(self) -> int:
        """All that was generated for it, repeated steps as often as they were drawn."""
        return sum(node.num_tokens * node.count for node in self.nodes)

    def path(self, node: int) -> list[int]:
        """Ids from the root to the node, both included."""
        found = [node]
        while found[-1] != ROOT:
            found.append(self.nodes[found[-1]].parent)
        return found[::-1]

    def completion(self, node: int) -> list[Step]:
        """The steps of the completion that the node is part of, up to the node."""
        steps: list[Step] = []
        for at in reversed(self.path(node)):
            here = self.nodes[at]
            if here.step is not None:
                steps.append(here.step)
            if here.restarts:
                break
        return steps[::-1]

    def token_ids(self, node: int) -> tuple[int, ...]:
        """Of the completion up to the node."""
        return tuple(token for step in self.completion(node) for token in step.token_ids)

    def text(self, node: int) -> str:
        """Of the completion up to the node."""
        return "".join(step.text for step in self.completion(node))

    def children(self, node: int) -> Iterator[Node]:
        """In the order in which they were first added."""
        return (self.nodes[child] for child in self.nodes[node].children)

    def leaves(self) -> Iterator[Node]:
        """Ends of completions: finished or cut."""
        return (node for node in self.nodes if not node.is_open)

    def add(self, parent: int, step: Step, key: tuple[int, ...], *, restarts: bool = False) -> int:
        """Adds a drawn step after a node, or counts it where the same tokens are there already.

        Returns:
            The id of its node.
        """
        above = self.nodes[parent]
        for child in self.children(parent):
            known = child.step
            assert known is not None, "only the root has no step"
            same = known.token_ids == step.token_ids and known.end == step.end
            if same and child.restarts == restarts:
                child.count += 1
                return child.id
        refuted = step.verdict is Verdict.REFUTED or (above.is_refuted and not restarts)
        node = Node(
            len(self.nodes), parent, above.depth + 1, key, step, restarts, is_refuted=refuted
        )
        self.nodes.append(node)
        above.children.append(node.id)
        return node.id

    def grow(self, job: Job, reply: Reply) -> list[int]:
        """Adds what a job brought.

        Returns:
            Ids of the reply's steps, in order; the last one has the reply's score and answer.
        """
        at, grown = job.node, list[int]()
        for place, step in enumerate(reply.steps):
            key = (*self.nodes[job.node].key, job.draw, place)
            at = self.add(at, step, key, restarts=job.kind == "revise" and place == 0)
            grown.append(at)
        assert grown, f"job {job.number} brought no step"
        self.nodes[at].score, self.nodes[at].answer = reply.score, reply.answer
        return grown
