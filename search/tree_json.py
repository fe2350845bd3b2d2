"""Trees and finished searches as JSON that is checked when it is read, and a tree's digest.

    {"schema": "cotree.tree/1", "nodes": [{"id": 0, "parent": -1, …}, …]}

One object a node, parents first. Floats are exact: Python writes the shortest decimal that reads
back as the same number. What follows from the rest (depth, children, refuted or not) is not saved.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast, get_args

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Node, Tree
from cotree.search.types import Step, StepEnd

SCHEMA = "cotree.tree/1"
RECORD_SCHEMA = "cotree.search/1"
"""Of a tree, and of a finished search. What reads them refuses any other."""

_TREE_FIELDS = "schema nodes"
_NODE_FIELDS = "id parent key step restarts count draws visits value_sum prior score answer"
_STEP_FIELDS = "token_ids logprobs text end verdict reason"
_RECORD_FIELDS = "schema search problem_id question seed strategy best history tokens digest tree"
_CHOICE_FIELDS = "num_tokens node"
_ENDS: tuple[str, ...] = get_args(StepEnd)
_LARGEST_EXACT = 2**53
"""Whole numbers up to here are floats too."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy preferred at a moment of its search."""

    num_tokens: int
    """Told to it until then."""
    node: int | None
    """The end of the completion it preferred; None: there was none yet."""


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One finished search: a line of `trees.jsonl`."""

    search: int
    """Its number in its run."""
    problem_id: str
    question: str
    seed: int
    strategy: str
    tree: Tree
    best: int | None
    """The end of the completion that the strategy settled on."""
    history: tuple[Choice, ...]
    """In the order of the tokens: the anytime curve, once answers are graded."""
    tokens: Mapping[str, int]
    """Counts of the ledger, by name."""

    @property
    def digest(self) -> str:
        """The tree's."""
        return tree_digest(self.tree)


# --- identity --------------------------------------------------------------------------------


def branch(node: Node) -> tuple[tuple[int, ...], str, bool]:
    """What tells a node from its siblings: its tokens, how its step ends, whether it restarts."""
    step = node.step
    return (step.token_ids if step else (), step.end if step else "", node.restarts)


def compared(node: Node) -> dict[str, float | str | None]:
    """What two nodes at one place of two trees have to agree on, by name.

    A value sum has twelve digits here: a sum of floats depends on the order of its terms, which is
    the order in which replies arrived.
    """
    return {
        "visits": node.visits,
        "value_sum": float(f"{node.value_sum:.12g}") + 0.0,
        "count": node.count,
        "score": None if node.score is None else node.score + 0.0,
        "verdict": node.step.verdict.value if node.step else None,
        "answer": node.answer,
    }


def tree_digest(tree: Tree) -> str:
    """Hash of what a tree says, whatever the order in which its nodes were added.

        H(n) = blake2b(canonical JSON of [branch(n), compared(n), sorted H(children of n)])

    Two trees have one digest if and only if `tree_diff` finds nothing between them. Keys, texts,
    reasons, log-probabilities and priors are left out: a step drawn twice has the key and the
    log-probabilities of the draw that came back first.

    Returns:
        32 hexadecimal digits: H(root).
    """
    digests = [""] * len(tree)
    for node in reversed(tree.nodes):
        below = sorted(digests[child] for child in node.children)
        known = [branch(node), compared(node), below]
        said = json.dumps(known, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digests[node.id] = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
    return digests[ROOT]


# --- writing ---------------------------------------------------------------------------------


def tree_json(tree: Tree) -> dict[str, object]:
    """A tree, ready for `json.dumps`.

    Raises:
        ValueError: work is under way below a node, or a number of a node is not finite.
    """
    return {"schema": SCHEMA, "nodes": [_node_json(node) for node in tree.nodes]}


def record_json(record: SearchRecord) -> dict[str, object]:
    """A finished search, ready for `json.dumps`; its tree as `tree_json` writes it.

    Raises:
        ValueError: as for `tree_json`.
    """
    return {
        "schema": RECORD_SCHEMA,
        "search": record.search,
        "problem_id": record.problem_id,
        "question": record.question,
        "seed": record.seed,
        "strategy": record.strategy,
        "best": record.best,
        "history": [{"num_tokens": one.num_tokens, "node": one.node} for one in record.history],
        "tokens": dict(record.tokens),
        "digest": record.digest,
        "tree": tree_json(record.tree),
    }


def _node_json(node: Node) -> dict[str, object]:
    if node.inflight:
        raise ValueError(
            f"node {node.id} has {node.inflight} jobs under way; tell or drop them before the tree "
            "is saved."
        )
    numbers = [node.value_sum, node.prior, node.score, *(node.step.logprobs if node.step else ())]
    for number in numbers:
        if number is not None and not math.isfinite(number):
            raise ValueError(f"node {node.id} has the number {number}, which JSON cannot hold.")
    return {
        "id": node.id,
        "parent": node.parent,
        "key": list(node.key),
        "step": _step_json(node.step) if node.step else None,
        "restarts": node.restarts,
        "count": node.count,
        "draws": node.draws,
        "visits": node.visits,
        "value_sum": node.value_sum,
        "prior": node.prior,
        "score": node.score,
        "answer": node.answer,
    }


def _step_json(step: Step) -> dict[str, object]:
    return {
        "token_ids": list(step.token_ids),
        "logprobs": list(step.logprobs),
        "text": step.text,
        "end": step.end,
        "verdict": step.verdict.value,
        "reason": step.reason,
    }


# --- reading ---------------------------------------------------------------------------------


def tree_from_json(saved: Mapping[str, object]) -> Tree:
    """The tree that `tree_json` wrote.

    Raises:
        ValueError: it is of another schema, or something in it is not as it is written. The message
            begins with the place.
    """
    return _tree(saved, "")


def record_from_json(saved: Mapping[str, object]) -> SearchRecord:
    """The finished search that `record_json` wrote.

    Raises:
        ValueError: as for `tree_from_json`; or the tree does not have the record's digest.
    """
    fields = _fields(saved, _RECORD_FIELDS, "", RECORD_SCHEMA)
    tree = _tree(fields["tree"], "tree.")
    history = tuple(
        _choice(one, f"history[{i}]", len(tree))
        for i, one in enumerate(_list(fields["history"], "history"))
    )
    if any(before.num_tokens > after.num_tokens for before, after in pairwise(history)):
        raise ValueError("history: num_tokens falls; choices are in the order of the tokens.")
    counts = _object(fields["tokens"], "tokens")
    record = SearchRecord(
        search=_int(fields["search"], "search", least=0),
        problem_id=_text(fields["problem_id"], "problem_id"),
        question=_text(fields["question"], "question"),
        seed=_int(fields["seed"], "seed"),
        strategy=_text(fields["strategy"], "strategy"),
        tree=tree,
        best=_node_id(fields["best"], "best", len(tree)),
        history=history,
        tokens={name: _int(n, f"tokens.{name}", least=0) for name, n in counts.items()},
    )
    if record.digest != fields["digest"]:
        raise ValueError(
            f"digest: the tree has {record.digest}, the record says {fields['digest']!r}; the line "
            "was damaged or changed by hand."
        )
    return record


def _tree(saved: object, where: str) -> Tree:
    """`where` ends in a dot, or is empty."""
    fields = _fields(saved, _TREE_FIELDS, where.removesuffix("."), SCHEMA)
    nodes = _list(fields["nodes"], f"{where}nodes")
    if not nodes:
        raise ValueError(f"{where}nodes: there is none; a tree has a root at least.")
    tree = Tree()
    tree.nodes.clear()
    branches: list[set[object]] = []
    for number, one in enumerate(nodes):
        at = f"{where}nodes[{number}]"
        node = _node(one, at, tree)
        if number != ROOT:
            # Equal siblings would be one node, drawn several times.
            if branch(node) in branches[node.parent]:
                raise ValueError(f"{at}: node {node.parent} has a child with the same tokens.")
            branches[node.parent].add(branch(node))
            tree.nodes[node.parent].children.append(number)
        branches.append(set())
        tree.nodes.append(node)
    return tree


def _node(saved: object, where: str, above: Tree) -> Node:
    """The next node of a tree that has the nodes before it."""
    fields, number = _fields(saved, _NODE_FIELDS, where), len(above)
    if _int(fields["id"], f"{where}.id") != number:
        raise ValueError(f"{where}.id: {fields['id']!r} is not its place in the list, {number}.")
    parent = _int(fields["parent"], f"{where}.parent")
    is_root = number == ROOT
    if parent != -1 if is_root else not 0 <= parent < number:
        wanted = "-1, the root's" if is_root else f"of a node before it, 0 to {number - 1}"
        raise ValueError(f"{where}.parent: {parent} must be {wanted}.")
    step = None if fields["step"] is None else _step(fields["step"], f"{where}.step")
    if (step is None) != is_root:
        raise ValueError(f"{where}.step: the root has none, and every other node has one.")
    restarts = _bool(fields["restarts"], f"{where}.restarts")
    refuted = step is not None and step.verdict is Verdict.REFUTED
    if not is_root and not restarts:
        refuted = refuted or above[parent].is_refuted
    keys = _list(fields["key"], f"{where}.key")
    return Node(
        id=number,
        parent=parent,
        depth=0 if is_root else above[parent].depth + 1,
        key=tuple(_int(part, f"{where}.key[{i}]") for i, part in enumerate(keys)),
        step=step,
        restarts=restarts,
        is_refuted=refuted,
        count=_int(fields["count"], f"{where}.count", least=1),
        draws=_int(fields["draws"], f"{where}.draws", least=0),
        visits=_int(fields["visits"], f"{where}.visits", least=0),
        value_sum=_number(fields["value_sum"], f"{where}.value_sum"),
        prior=_number_or_none(fields["prior"], f"{where}.prior"),
        score=_number_or_none(fields["score"], f"{where}.score"),
        answer=None if fields["answer"] is None else _text(fields["answer"], f"{where}.answer"),
    )


def _step(saved: object, where: str) -> Step:
    fields = _fields(saved, _STEP_FIELDS, where)
    ids = _list(fields["token_ids"], f"{where}.token_ids")
    logprobs = _list(fields["logprobs"], f"{where}.logprobs")
    if len(ids) != len(logprobs):
        raise ValueError(f"{where}.logprobs: {len(logprobs)} numbers for {len(ids)} tokens.")
    end, verdict = fields["end"], fields["verdict"]
    if end not in _ENDS:
        raise ValueError(f"{where}.end: {end!r} must be one of {', '.join(_ENDS)}.")
    if verdict not in list(Verdict):
        raise ValueError(f"{where}.verdict: {verdict!r} must be one of {', '.join(Verdict)}.")
    return Step(
        token_ids=tuple(_int(one, f"{where}.token_ids[{i}]") for i, one in enumerate(ids)),
        logprobs=tuple(_number(one, f"{where}.logprobs[{i}]") for i, one in enumerate(logprobs)),
        text=_text(fields["text"], f"{where}.text"),
        end=cast(StepEnd, end),
        verdict=Verdict(cast(str, verdict)),
        reason=_text(fields["reason"], f"{where}.reason"),
    )


def _choice(saved: object, where: str, num_nodes: int) -> Choice:
    fields = _fields(saved, _CHOICE_FIELDS, where)
    return Choice(
        _int(fields["num_tokens"], f"{where}.num_tokens", least=0),
        _node_id(fields["node"], f"{where}.node", num_nodes),
    )


# --- values ----------------------------------------------------------------------------------


def _fields(saved: object, names: str, where: str, schema: str | None = None) -> dict[str, object]:
    """Of an object with exactly these fields, and of this schema if one is given."""
    found = _object(saved, where)
    if schema is not None and found.get("schema") != schema:
        place = f"{where}.schema" if where else "schema"
        raise ValueError(
            f"{place}: {found.get('schema')!r} is not {schema!r}, which is all that this version "
            "of cotree reads."
        )
    wanted = set(names.split())
    if set(found) != wanted:
        missing, unknown = sorted(wanted - set(found)), sorted(set(found) - wanted)
        raise ValueError(
            f"{where or 'the whole'}: fields missing: {', '.join(missing) or 'none'}; unknown: "
            f"{', '.join(unknown) or 'none'}."
        )
    return found


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'the whole'}: {_short(value)} must be an object.")
    return dict(cast(Mapping[str, object], value))


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: {_short(value)} must be a list.")
    return cast(list[object], value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {_short(value)} must be a text.")
    return value


def _bool(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {_short(value)} must be true or false.")
    return value


def _int(value: object, where: str, least: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where}: {_short(value)} must be a whole number.")
    if least is not None and value < least:
        raise ValueError(f"{where}: {value} must be {least} or more.")
    return value


def _number(value: object, where: str) -> float:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and abs(cast(int, value)) <= _LARGEST_EXACT:
        return float(cast(int, value))
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{where}: {_short(value)} must be a finite number.")
    return value


def _number_or_none(value: object, where: str) -> float | None:
    return None if value is None else _number(value, where)


def _node_id(value: object, where: str, num_nodes: int) -> int | None:
    if value is None:
        return None
    node = _int(value, where, least=0)
    if node >= num_nodes:
        raise ValueError(f"{where}: {node} is no node of the tree; it has {num_nodes}.")
    return node


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
