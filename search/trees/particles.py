"""Particle filtering over reasoning steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cotree.search.selection import softmax
from cotree.search.tree import ROOT
from cotree.search.tree_strategy import rng_at
from cotree.search.trees.rounds import Rounds
from cotree.search.votes import voted, voters

_NEAR = 1e-6
"""Scores are kept this far from 0 and 1, where the logit is infinite."""


@dataclass(frozen=True, kw_only=True)
class ParticleSettings:
    """Of `Particles`."""

    particles: int = 8
    temperature: float = 1.0
    """Divides the potential. High: all particles live on. Low: the best one takes over."""
    potential: Literal["logit", "score"] = "logit"
    """What the weight of a state is the exponential of: the logit of its score, or the score."""
    rounds: int = 40
    """Steps after which a filter ends, finished or not."""
    repeats: bool = True
    """Starts another filter with new draws when one has ended, until a budget ends the search."""

    def __post_init__(self) -> None:
        for name in ("particles", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more.")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature} must be above 0, and finite.")


def systematic_resample(weights: Sequence[float], count: int, *, offset: float) -> list[int]:
    """Positions of `count` survivors, rising; i has floor or ceil of count * weights[i] of them.

        the survivor j is the i with  C(i - 1) <= (j + offset) / count < C(i),  C the running sum

    Args:
        weights: [N] not negative, of sum 1.
        count: survivors.
        offset: uniform in [0, 1); one random number for all of them.

    Source: Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space
        models", appendix (stratified with one number, called systematic since).
    """
    chosen: list[int] = []
    last = max(i for i, weight in enumerate(weights) if weight > 0.0)
    at, running = 0, weights[0]
    for j in range(count):
        # A running sum of rounded numbers may end a little below 1.
        while at < last and running <= (j + offset) / count:
            at += 1
            running += weights[at]
        chosen.append(at)
    return chosen


class Particles(Rounds):
    """In each round, one step after each particle's state; then states are resampled by weight.

        w_i = softmax over i of potential(score_i) / temperature,    0 of a refuted state

    Particles at one state draw different steps. Where all that moved were refuted, they go back to
    the states before and draw again. A particle whose completion has ended keeps its place and is
    resampled no more, so no completion is copied: that differs from the paper, where an ended
    particle may be multiplied. The selected completion is by vote, weighted by scores.

    Args:
        settings: of the filter.
        seed: of the resampling.

    Source: Puri et al. 2025, arXiv:2502.01618, algorithm 1.
    """

    def __init__(self, settings: ParticleSettings, *, seed: int) -> None:
        super().__init__()
        self._settings = settings
        self._seed = seed
        self._states: list[int] = []
        self._num_rounds = 0
        """Of the present filter."""
        self._num_resampled = 0

    def best(self) -> int | None:
        return voted(voters(self.tree), "score")

    def _following(self, ends: Sequence[int | None]) -> list[int]:
        if ends:
            self._resample(ends)
        moving = self._moving()
        if not moving or self._num_rounds >= self._settings.rounds:
            if ends and not self._settings.repeats:
                return []
            self._states = [ROOT] * self._settings.particles
            self._num_rounds = 0
            moving = self._moving()
        self._num_rounds += 1
        return [self._states[particle] for particle in moving]

    def _moving(self) -> list[int]:
        """Particles whose completion goes on."""
        return [i for i, state in enumerate(self._states) if self.tree[state].is_open]

    def _resample(self, ends: Sequence[int | None]) -> None:
        """Gives the particles that moved, and have not ended, states drawn from theirs."""
        alive: list[int] = []
        places: list[int] = []
        for particle, end in zip(self._moving(), ends, strict=True):
            if end is None or self.tree[end].is_refuted:
                places.append(particle)
            elif self.tree[end].is_open:
                places.append(particle)
                alive.append(end)
            else:
                self._states[particle] = end
        if not alive:
            return
        weights = softmax([self._potential(state) for state in alive])
        offset = rng_at(self._seed, "resample", self._num_resampled).random()
        self._num_resampled += 1
        chosen = systematic_resample(weights, len(places), offset=offset)
        for particle, index in zip(places, chosen, strict=True):
            self._states[particle] = alive[index]

    def _potential(self, state: int) -> float:
        score = self.tree[state].score or 0.0
        if self._settings.potential == "logit":
            score = min(max(score, _NEAR), 1.0 - _NEAR)
            score = math.log(score / (1.0 - score))
        return score / self._settings.temperature
