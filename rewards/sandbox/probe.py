"""Which layer works on this machine: found out by running a program in each."""

import logging
from collections.abc import Mapping
from functools import cache

from cotree.rewards.sandbox.layers import Layer, Layers
from cotree.rewards.sandbox.runner import Limits, run
from cotree.rewards.types import GraderError

_LOG = logging.getLogger(__name__)
_LIMITS = Limits(timeout_seconds=10.0, memory_bytes=512 << 20)

# Prints what it got at, so a layer that starts but shuts nothing out is not taken for one.
_INTRUDER = """
import os, socket

def reached(name, attempt):
    try:
        attempt()
    except OSError:
        return
    print(name)

reached("host files", lambda: open("/etc/passwd").close())
reached("other processes", lambda: open("/proc/1/status").close())
reached("writing", lambda: open("/tmp/cotree_probe", "w").close())
reached("the network", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
reached("new processes", lambda: os.fork() or os._exit(0))
print(input())
"""


@cache
def probe() -> Layers:
    """The best layer that works here, found once per process and logged.

    `Layer.LIMITS` is never the best: it shuts nothing out, so it must be asked for.
    """
    refused: dict[Layer, str] = {}
    for layer in (Layer.BUBBLEWRAP, Layer.LANDLOCK):
        reason = why_unusable(layer)
        if reason is None:
            _LOG.info("code rewards run under %s%s", layer, _listed(refused))
            return Layers(layer, refused)
        refused[layer] = reason
    _LOG.warning("no sandbox for code rewards works here%s", _listed(refused))
    return Layers(None, refused)


def chosen_layer(layers: Layers, *, allow_unsafe: bool) -> Layer:
    """The layer to run generated code under.

    Args:
        layers: what `probe` found.
        allow_unsafe: settle for resource limits where nothing better works.

    Raises:
        GraderError: none works here and `allow_unsafe` is not set.
    """
    if layers.best is not None:
        return layers.best
    if allow_unsafe:
        return Layer.LIMITS
    raise GraderError(
        f"generated code is not run without a sandbox, and none works here{_listed(layers.refused)}"
        ". Install one (`apt install bubblewrap`, with user namespaces enabled; or a kernel with"
        " Landlock), or set allow_unsafe = true to run it with resource limits only, open to"
        " this machine's files and network."
    )


def why_unusable(layer: Layer) -> str | None:
    """`None` when the layer runs a program and refuses it everything; else what went wrong."""
    try:
        execution = run(_INTRUDER, stdin="ran\n", limits=_LIMITS, layer=layer)
    except GraderError as error:
        return str(error)
    *reached, last = execution.stdout.decode(errors="replace").split("\n")[:-1] or [""]
    if last != "ran" or execution.exit != 0:
        return f"a program did not run to its end: {execution.stderr_tail or execution.exit}"
    if reached:
        return f"a program reached {', '.join(reached)}"
    return None


def _listed(refused: Mapping[Layer, str]) -> str:
    return "".join(f"; {layer}: {reason}" for layer, reason in refused.items())
