"""The learning rate as a pure function of the update."""

import math

from cotree.grpo.config_algorithm import Optimizer


def learning_rate(optimizer: Optimizer, *, update: int, total_updates: int) -> float:
    """The learning rate of optimizer update `update`, counted from 0.

        warm-up   rate * (update + 1) / warmup_steps              while update < warmup_steps
        progress  p = (update - warmup_steps) / (total_updates - warmup_steps), at most 1
        linear    rate * (1 - (1 - final_frac) * p)
        cosine    rate * (final_frac + (1 - final_frac) * (1 + cos(pi * p)) / 2)

    `final_frac` is reached after the last update, so that none is spent at a rate of zero.

    Source: cosine as in Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    rate = optimizer.learning_rate
    if update < optimizer.warmup_steps:
        return rate * (update + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return rate
    span = max(1, total_updates - optimizer.warmup_steps)
    progress = min(1.0, (update - optimizer.warmup_steps) / span)
    if optimizer.schedule == "linear":
        return rate * (1.0 - (1.0 - optimizer.final_frac) * progress)
    cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
    return rate * (optimizer.final_frac + (1.0 - optimizer.final_frac) * cosine)
