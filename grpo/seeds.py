"""Seeds as a pure function of what they are for. There is no global generator."""

import hashlib


def derive(*parts: int | str) -> int:
    """A 63-bit seed from the path of what it seeds, e.g. `derive(run_seed, step, problem_id, 3)`.

    SHA-256 over the length-prefixed parts, so ("a", "bc") and ("ab", "c") differ, and so do
    1 and "1". The same path gives the same seed on every machine, in any order of calls.
    """
    path = hashlib.sha256()
    for part in parts:
        encoded = f"{type(part).__name__}:{part}".encode()
        path.update(len(encoded).to_bytes(8, "big") + encoded)
    return int.from_bytes(path.digest()[:8], "big") >> 1
