"""The arithmetic of a learner: what its products are computed in, now and later in the run.

Master weights, gradients and the optimizer are float32 whatever it is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cotree.grpo.config_learner import Float16, Precision, PrecisionPhase, phases_of
from cotree.grpo.fp8_layers import Fp8Layers

_AUTOCAST = {"float32": None, "float16": torch.float16}
"""Of every other type: bfloat16."""


class LossScale:
    """The factor that keeps float16 gradients out of the range where they vanish.

    torch's own GradScaler decides each process by itself whether a gradient overflowed; under
    FSDP2, where each holds a part of it, they would part ways. This one is told the norm over all.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2.
    """

    def __init__(self, settings: Float16) -> None:
        self.value = settings.initial_scale
        self._interval = settings.growth_interval
        self._good_updates = 0

    def shrink(self) -> bool:
        """Halves the scale after an overflow; False where it is 1 already and can do no more."""
        if self.value <= 1:
            return False
        self.value, self._good_updates = max(1.0, self.value / 2), 0
        return True

    def passed(self) -> None:
        """Counts an update without an overflow; doubles the scale after enough of them."""
        self._good_updates += 1
        if self._good_updates == self._interval:
            self.value, self._good_updates = min(self.value * 2, 2.0**24), 0

    def state(self) -> tuple[float, int]:
        """What `restore` needs."""
        return self.value, self._good_updates

    def restore(self, state: Sequence[float]) -> None:
        """Continues where `state` was taken."""
        self.value, self._good_updates = float(state[0]), int(state[1])


class Arithmetic:
    """Puts a phase's arithmetic around forwards, and scales losses where it needs that."""

    def __init__(
        self,
        precision: Precision,
        layers: Fp8Layers,
        device: torch.device,
        *,
        total_updates: int,
    ) -> None:
        """Starts at update 0.

        Args:
            precision: settings, a schedule or not.
            layers: the model's layers that can compute in FP8.
            device: of the model.
            total_updates: of the stage.

        Raises:
            ValueError: a phase would never begin.
        """
        self._phases = phases_of(precision)
        late = [p.first_update for p in self._phases if p.first_update >= total_updates > 0]
        if late:
            raise ValueError(
                f"learner.precision has a phase from update {late[0]} on, but this stage ends "
                f"after {total_updates}; lower first_update or drop the phase."
            )
        self._layers = layers
        self._device = device
        self._scales = {
            phase.first_update: LossScale(phase.precision)
            for phase in self._phases
            if isinstance(phase.precision, Float16)
        }

    def phase(self, update: int) -> PrecisionPhase:
        """The phase that an update, counted from 0, belongs to."""
        return [phase for phase in self._phases if phase.first_update <= update][-1]

    @contextmanager
    def forward(self, update: int) -> Generator[None]:
        """The arithmetic of an update for the forward passes inside the `with`."""
        precision = self.phase(update).precision
        dtype = _AUTOCAST.get(precision.type, torch.bfloat16)
        self._layers.use(precision)
        if dtype is None:
            yield
            return
        with torch.autocast(self._device.type, dtype=dtype):
            yield

    def scaled(self, loss: Tensor, update: int) -> Tensor:
        """The loss times the scale of the update's arithmetic, if it has one."""
        scale = self._scale(update)
        return loss if scale is None else loss * scale.value

    def unscale(self, parameters: Sequence[nn.Parameter], update: int) -> dict[str, float]:
        """Divides the gradients by what the loss was multiplied by.

        Returns:
            `precision/loss_scale` and `precision/skipped` (0), where there is a scale.
        """
        scale = self._scale(update)
        if scale is None:
            return {}
        for parameter in parameters:
            if parameter.grad is not None:
                # An overflow stays infinite or NaN, for the norm to find.
                parameter.grad.mul_(1.0 / scale.value)
        return {"precision/loss_scale": scale.value, "precision/skipped": 0.0}

    def overflowed(self, update: int) -> bool:
        """Whether a gradient that is not finite was the scale's doing, which is smaller now."""
        scale = self._scale(update)
        return scale is not None and scale.shrink()

    def passed(self, update: int) -> None:
        """Counts an update whose gradient was finite."""
        scale = self._scale(update)
        if scale is not None:
            scale.passed()

    def hint(self, update: int) -> str:
        """What a gradient that is not finite may come from, beside all else."""
        if self._scale(update) is None:
            return ""
        return "; float16 ends at 65504, and the loss is not scaled any longer: use bfloat16"

    def state(self) -> dict[int, tuple[float, int]]:
        """Of the loss scales, by first update."""
        return {first: scale.state() for first, scale in self._scales.items()}

    def restore(self, state: dict[int, Sequence[float]]) -> None:
        """Continues where `state` was taken."""
        for first, scale in self._scales.items():
            scale.restore(state[first])

    def _scale(self, update: int) -> LossScale | None:
        return self._scales.get(self.phase(update).first_update)
