"""Reward functions in this process, for those that need its memory or a connection it holds.

Nothing here can end a call that hangs, and a crash takes this process along: for functions whose
time does not depend on what the completion says.
"""

from collections.abc import Sequence

from cotree.rewards.calls import Caller
from cotree.rewards.outcomes import Outcome
from cotree.rewards.plan import CHUNK_ITEMS, Call, Deliver, form_of, outcomes_by, planned
from cotree.rewards.registry import Term, bound
from cotree.rewards.signature import Item


class InlineRewards:
    """Calls reward functions here; exceptions become outcomes, as in a child process."""

    def __init__(self, terms: Sequence[Term]) -> None:
        """Resolves the functions.

        Raises:
            RewardLookupError: a term's name or options are wrong.
        """
        rewards = [bound(term) for term in terms]
        self.forms = tuple(form_of(reward) for reward in rewards)
        # Ctrl-C is meant for the run, not for the function it happens to interrupt.
        self._caller = Caller(rewards, fatal=(KeyboardInterrupt,))

    def outcomes(self, items: Sequence[Item]) -> list[list[Outcome]]:
        """The outcome of every term for each item, both in the order given."""
        chunks = (items[start : start + CHUNK_ITEMS] for start in range(0, len(items), CHUNK_ITEMS))
        return [found for chunk in chunks for found in outcomes_by(self, chunk, planned)]

    def ensure_ready(self) -> bool:
        """False: this process is never replaced."""
        return False

    def make(self, calls: Sequence[Call], items: Sequence[Item], deliver: Deliver) -> None:
        """Makes the calls in order."""
        for call in calls:
            deliver(call, self._caller.outcomes(call, items, timeout_seconds=None))

    def close(self) -> None:
        """Ends the event loop of `async` functions."""
        self._caller.close()
