"""The experts that a vLLM engine chooses for each token of a request, recorded as it decodes.

    recorder = route_recorder(worker)            # once, inside the engine's process
    recorder.follow(request)                     # before its first pass
    routes = recorder.take(request, tokens=T)    # when it has finished

A router tells the choices of one forward pass, a row for each token, but not whose rows they are.
That is known to the scheduler, which says how many tokens of which request are in the pass, and to
the batch, which has the requests in the order of their rows. Requests join, leave, wait and start
over between two passes; a pass is split up before the next one begins.

vLLM can return routes by itself, but not on a CPU (`enable_return_routed_experts` needs its second
model runner, which needs Triton).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cotree.grpo.types import Routes

__all__ = ["Route", "RouteRecorder", "Run", "route_recorder", "runs_of", "with_first_rows"]

VllmObject: TypeAlias = Any
"""vLLM is untyped."""

Route: TypeAlias = NDArray[np.uint16]
"""[tokens, layers, k] ids of experts."""

_MOST_EXPERTS = 1 << 15
"""Ids of more would not fit the int16 of `Batch.routes`."""


class Run(NamedTuple):
    """Consecutive rows of a forward pass: tokens of one request."""

    request: str
    start: int
    """Position of the first in the request's tokens, prompt included."""
    tokens: int


@dataclass(slots=True)
class _Recorded:
    """The tokens of one request so far, without gaps."""

    count: int = 0
    parts: list[Route] = field(default_factory=list)


class RouteRecorder:
    """Splits up the choices of each pass by request. Knows no vLLM.

    A token that is computed twice, because vLLM freed the cache of a waiting request and started
    over, keeps its first choice: it is the one that the next token's log-probability came from.
    """

    def __init__(self, *, layers: int, per_token: int, experts: int) -> None:
        """Starts with no requests.

        Args:
            layers: layers with experts.
            per_token: experts of a token in one layer (k).
            experts: of a layer; ids are below it.
        """
        if experts > _MOST_EXPERTS:
            raise ValueError(
                f"the model has {experts} experts in a layer; train.rollout.replay_routes takes "
                f"{_MOST_EXPERTS} at most. Set it to false."
            )
        self._shape = (layers, per_token)
        self._experts = experts
        self._pass: list[Route | None] = [None] * layers
        self._recorded: dict[str, _Recorded] = {}
        self.recomputed = 0
        """Tokens of followed requests that were computed again, since the start."""

    @property
    def requests(self) -> int:
        """How many are followed."""
        return len(self._recorded)

    def follow(self, request: str) -> None:
        """Records a request from its first token on; others leave nothing behind.

        Args:
            request: its name inside the engine, unique.
        """
        assert request not in self._recorded, f"{request} is followed already"
        self._recorded[request] = _Recorded()

    def begin(self) -> None:
        """Forgets the pass before, and passes that nobody asked for (vLLM's warm-up)."""
        self._pass = [None] * len(self._pass)

    def capture(self, layer: int, ids: VllmObject) -> None:
        """Takes the choices of one layer in the pass under way.

        Args:
            layer: among those with experts.
            ids: [rows, k] tensor; the kernel may use its memory again. Rows beyond the tokens of
                the pass are padding.
        """
        self._pass[layer] = ids.numpy().astype(np.uint16)

    def assign(self, runs: Sequence[Run]) -> None:
        """Ends a pass: hands its rows out.

        Args:
            runs: of all requests in the pass, in the order of their rows.

        Raises:
            RuntimeError: the rows are not those of the runs, or a request has a gap.
        """
        if not self._recorded:
            return
        routes = self._whole_pass(sum(run.tokens for run in runs))
        row = 0
        for request, start, tokens in runs:
            recorded = self._recorded.get(request)
            if recorded is not None:
                known = recorded.count - start
                if known < 0:
                    raise RuntimeError(
                        f"the engine computed token {start} of request {request}, of which "
                        f"{recorded.count} tokens were recorded: the ones between came from a "
                        "cache. Routes need an engine without prefix caching."
                    )
                self.recomputed += min(known, tokens)
                if known < tokens:
                    recorded.parts.append(routes[row + known : row + tokens])
                    recorded.count = start + tokens
            row += tokens

    def take(self, request: str, *, tokens: int) -> Routes:
        """The routes of a request that has finished, which is no longer followed.

        Args:
            request: its name inside the engine.
            tokens: computed ones: those of its prompt and all sampled ones but the last.

        Raises:
            RuntimeError: the engine recorded another number, or what no router chooses: an id
                that is out of range, or the same expert twice.
        """
        recorded = self._recorded.pop(request)
        if recorded.count != tokens:
            raise RuntimeError(
                f"the engine recorded the experts of {recorded.count} tokens of request {request}, "
                f"which has {tokens}."
            )
        routes = np.concatenate(recorded.parts)
        ordered = np.sort(routes, axis=-1)
        if ordered[..., -1].max() >= self._experts or (ordered[..., 1:] == ordered[..., :-1]).any():
            raise RuntimeError(
                f"the engine recorded experts for request {request} that are not "
                f"{self._shape[1]} different ones of 0 to {self._experts - 1} for each token."
            )
        layers, per_token = self._shape
        ids = base64.b64encode(routes.astype("<u2").tobytes()).decode("ascii")
        return Routes(layers=layers, per_token=per_token, ids=ids)

    def forget(self, requests: Iterable[str]) -> None:
        """Drops requests that will not finish."""
        for request in requests:
            self._recorded.pop(request, None)

    def _whole_pass(self, rows: int) -> Route:
        """[rows, layers, k] of the pass under way, padding cut off."""
        found = [ids[:rows] for ids in self._pass if ids is not None]
        wanted = [(rows, self._shape[1])] * self._shape[0]
        if [ids.shape for ids in found] != wanted:
            raise RuntimeError(
                f"a pass of {rows} tokens recorded experts of shapes {[i.shape for i in found]} "
                f"instead of {wanted}: a layer's kernel does not ask its router."
            )
        return np.stack(found, axis=1)


def with_first_rows(routes: Routes, first: Routes, *, tokens: int) -> Routes:
    """The choices of `first` for as many tokens, and those of `routes` for the ones after them.

    Args:
        routes: of at least `tokens` tokens.
        first: of the same model, and of at least `tokens` tokens.
        tokens: that both computed.
    """
    size = 2 * routes.layers * routes.per_token * tokens
    ids = base64.b64decode(first.ids)[:size] + base64.b64decode(routes.ids)[size:]
    return replace(routes, ids=base64.b64encode(ids).decode("ascii"))


def runs_of(scheduled: VllmObject, order: Sequence[str]) -> list[Run]:
    """Whose the rows of a forward pass are.

    Args:
        scheduled: vLLM's `SchedulerOutput` of the pass.
        order: names of the requests of the batch, in the order of their rows.

    Raises:
        RuntimeError: the batch has other requests than were scheduled.
    """
    tokens: dict[str, int] = scheduled.num_scheduled_tokens
    if sorted(order) != sorted(tokens):
        raise RuntimeError(
            f"the engine's batch has {len(order)} requests, but {len(tokens)} were scheduled."
        )
    later = scheduled.scheduled_cached_reqs
    starts = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
    starts |= zip(later.req_ids, later.num_computed_tokens, strict=True)
    return [Run(request, starts[request], tokens[request]) for request in order]


def route_recorder(worker: VllmObject) -> RouteRecorder:
    """Attaches a recorder to a vLLM worker on a CPU; for `collective_rpc`, in its process.

    Raises:
        ValueError: the model has no experts, or a kernel that chooses them out of sight.
    """
    # Inside the engine's process only: the driver reads this file too.
    from vllm.model_executor.layers.fused_moe.router import base_router  # noqa: PLC0415
    from vllm.model_executor.layers.fused_moe.runner import moe_runner  # noqa: PLC0415

    runner = worker.model_runner
    layers: list[VllmObject] = [
        module for module in runner.model.modules() if isinstance(module, moe_runner.MoERunner)
    ]
    layers.sort(key=lambda layer: layer.layer_id)
    if not layers:
        raise ValueError(
            "train.rollout.replay_routes is true, but the model has no layer of experts whose "
            "choices could be recorded. Set it to false."
        )
    for layer in layers:
        if layer.is_monolithic or not isinstance(layer.router, base_router.BaseRouter):
            raise ValueError(
                f"train.rollout.replay_routes is true, but layer {layer.layer_id} chooses its "
                f"experts out of sight ({type(layer.router).__name__}). Set it to false."
            )
    sizes = {(layer.router.top_k, layer.router.global_num_experts) for layer in layers}
    if len(sizes) > 1:
        raise ValueError(
            "train.rollout.replay_routes is true, but layers differ in their experts per token "
            f"and experts: {sorted(sizes)}. Set it to false."
        )
    ((per_token, experts),) = sizes
    recorder = RouteRecorder(layers=len(layers), per_token=per_token, experts=experts)
    for index, layer in enumerate(layers):
        layer.router.set_capture_fn(partial(recorder.capture, index))
    _observe(runner, recorder)
    return recorder


def _observe(runner: VllmObject, recorder: RouteRecorder) -> None:
    """Has the recorder told of each forward pass of a model runner, before and after."""
    execute = runner.execute_model

    def observed(scheduled: VllmObject, *args: object, **options: object) -> VllmObject:
        recorder.begin()
        answer = execute(scheduled, *args, **options)
        # Sampling, which comes next, leaves the batch as it was; the next pass changes it.
        if scheduled.total_num_scheduled_tokens:
            recorder.assign(runs_of(scheduled, runner.input_batch.req_ids))
        return answer

    runner.execute_model = observed
