"""What was measured: prompt, template, sampler, grader, engine, data. Unlike is not compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType

Parts = Mapping[str, object]
"""A benchmark's `BenchmarkSummary.parts`: one entry for each thing that a figure depends on."""

_DIGITS = 16


def digest(value: object) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(text.encode()).hexdigest()[:_DIGITS]


@cache
def sources_digest(root: Path) -> str:
    """Digest of a package's sources: another grader or strategy is another measurement."""
    sources = {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.py")
    }
    return digest(sources)


def package_digest(package: ModuleType) -> str:
    """`sources_digest` of an imported package."""
    assert package.__file__ is not None, package
    return sources_digest(Path(package.__file__).parent)


def model_identity(model: str, revision: str | None) -> dict[str, object]:
    """What tells two models apart without reading gigabytes of weights.

    Of a local folder: a digest of its small files and of name, size and time of its weight files,
    so that a checkpoint that was overwritten is another model. Of a hub name: name and revision.
    """
    folder = Path(model)
    if not folder.is_dir():
        return {"model": model, "revision": revision}
    files: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".model"):
            files[path.name] = sha256(path.read_bytes()).hexdigest()
        elif path.suffix in (".safetensors", ".bin"):
            stat = path.stat()
            files[path.name] = [stat.st_size, stat.st_mtime_ns]
    return {"model": str(folder.resolve()), "files": digest(files)}


def differing_parts(old: Parts, new: Parts) -> dict[str, tuple[object, object]]:
    """Dotted key -> (old, new) of every part that differs; an absent one is None."""
    before, after = _flat(old, ""), _flat(new, "")
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _flat(value: object, prefix: str) -> dict[str, object]:
    # Through JSON: parts that come from a file have lists where those of this process have tuples.
    if not prefix:
        value = json.loads(json.dumps(value))
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, object] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{name}".lstrip("."))
    return flat
