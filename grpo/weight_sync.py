"""From a learner's update to generators that have proven to hold it."""

from cotree.grpo.generator import GeneratorGroup
from cotree.grpo.learner import LearnerGroup
from cotree.grpo.types import Stats
from cotree.grpo.weights import Canary


class WeightSync:
    """Callable: moves the learner's weights to every generator and measures the pair.

    Args:
        learner: where the weights come from.
        generators: where they go.
        canary_ids: a sequence whose log-probabilities both sides must agree on; 2 tokens or more.
    """

    def __init__(
        self, learner: LearnerGroup, generators: GeneratorGroup, *, canary_ids: tuple[int, ...]
    ) -> None:
        self._learner = learner
        self._generators = generators
        self._canary_ids = canary_ids
        self._before: list[dict[str, float]] = []

    def __call__(self) -> Stats:
        """Returns once every generator serves the learner's version.

        Raises:
            WeightSyncError: a generator could not prove it; the run must stop.
        """
        logprobs = self._learner.logprobs([self._canary_ids], [1])[0]
        canary = Canary(self._canary_ids, tuple(logprobs))
        update = self._learner.weights()
        proofs = self._generators.healed(lambda: self._generators.load_weights(update, canary))
        return {
            "sync/canary_mean_gap_nats": max(proof.canary_mean_gap_nats for proof in proofs),
            "sync/canary_max_gap_nats": max(proof.canary_max_gap_nats for proof in proofs),
            "sync/proven_tensors": float(sum(proof.tensors for proof in proofs)),
            **self._engine_speed(),
        }

    def _engine_speed(self) -> Stats:
        """Tokens per second of the replicas while they sampled since the last sync, and drafts.

        Of drafted tokens, `speculation/accepted_frac` were accepted; a draft gave
        `speculation/accepted_per_draft` tokens, and one more that the policy drew itself.
        """
        totals = self._generators.stats()
        before = self._before or [{} for _ in totals]
        shares = [_since(now, then) for now, then in zip(totals, before, strict=True)]
        since = {name: sum(share[name] for share in shares) for name in totals[0]}
        self._before = totals
        # Replicas sample side by side: the group's time is their mean.
        tokens, busy = since["tokens"], since["seconds"] / len(totals)
        if tokens <= 0 or busy <= 0:  # nothing sampled
            return {}
        stats = {"engine/busy_seconds": busy, "tokens_per_second/generate": tokens / busy}
        if since.get("drafts", 0.0) > 0:
            accepted = since["accepted_tokens"]
            stats["speculation/accepted_frac"] = accepted / since["drafted_tokens"]
            stats["speculation/accepted_per_draft"] = accepted / since["drafts"]
        return stats


def _since(now: dict[str, float], then: dict[str, float]) -> dict[str, float]:
    """What a replica counted since `then`: all of it where it was replaced and began at zero."""
    if any(now[name] < value for name, value in then.items()):
        return now
    return {name: value - then.get(name, 0.0) for name, value in now.items()}
