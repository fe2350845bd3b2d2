"""The layers that every escape is tried under."""

import pytest

from cotree.rewards.sandbox.layers import Layer
from cotree.rewards.sandbox.probe import why_unusable


@pytest.fixture(scope="session", params=[Layer.BUBBLEWRAP, Layer.LANDLOCK])
def layer(request: pytest.FixtureRequest) -> Layer:
    """A layer that confines; skipped, with the reason, where this machine cannot run it."""
    reason = why_unusable(request.param)
    if reason is not None:
        pytest.skip(f"{request.param} does not work here: {reason}")
    return request.param
