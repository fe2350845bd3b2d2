"""A TOML file and `--set` overrides in, a validated pipeline out; and the way back.

Imports no torch, ray or vllm: `cotree check` answers at once, on any machine.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cotree.grpo.config import Pipeline

Toml = dict[str, Any]
"""A parsed TOML table: its values are of any type until pydantic has looked at them."""

_Model = TypeVar("_Model", bound=BaseModel)


class ConfigError(ValueError):
    """The configuration or the run folder is not usable as asked; the message says what to do."""


# --- reading ---------------------------------------------------------------------------------


def load_pipeline(path: Path | str, overrides: Sequence[str]) -> Pipeline:
    """The pipeline a TOML file describes, after `--set` overrides.

    Args:
        path: the TOML file. `output_dir` defaults to `runs/<file stem>`.
        overrides: `a.b=c` each, applied in order. `c` is read as a TOML value and, where it is
            none, as a string. A number in the path indexes a list: `rewards.0.weight=2`.

    Raises:
        ConfigError: the file is missing or not TOML, an override is malformed, a key is unknown
            or a value is refused. One short line per problem, each with its dotted key.
    """
    path = Path(path)
    table = _read_toml(path)
    table.setdefault("output_dir", f"runs/{path.stem}")
    return validated(Pipeline, table, overrides, source=str(path))


def validated(model: type[_Model], table: Toml, overrides: Sequence[str], *, source: str) -> _Model:
    """The settings in `table`, changed in place by `--set` overrides, as a model.

    Args:
        model: what the table describes.
        table: nested settings.
        overrides: see `load_pipeline`.
        source: where the table is from, for messages.

    Raises:
        ConfigError: as `load_pipeline`.
    """
    for override in overrides:
        _apply(table, override)
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for e in error.errors():
            key, text = _explain(dict(e), table, model)
            problems.setdefault(key, []).append(text)
        lines = [
            f"{key}: {' or '.join(texts)}".removeprefix(": ")
            + f" ({_source(key, source, overrides)})"
            for key, texts in problems.items()
        ]
        raise ConfigError("\n".join(lines)) from error


def _read_toml(path: Path) -> Toml:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        siblings = sorted(str(p) for p in path.parent.glob("*.toml"))
        close = difflib.get_close_matches(str(path), siblings, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "give the path of a .toml file."
        raise ConfigError(f"{path}: no such file; {hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give the path of a .toml file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _apply(table: Toml, override: str) -> None:
    """Sets one `a.b=c` in the parsed file, in place."""
    key, equals, raw = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"--set {override!r}: write it as key=value, e.g. --set train.num_steps=5"
        )
    node: Any = table
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f"--set {override!r}: {'.'.join(parts[:i])} is a list of {len(node)}; "
                    f"{part!r} must be an index below that."
                )
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
        else:
            raise ConfigError(
                f"--set {override!r}: {'.'.join(parts[:i])} is {node!r}, which has no keys inside."
            )
        if last:
            node[index] = _toml_value(raw.strip())
        else:
            node = node[index] if isinstance(node, list) else node.setdefault(index, {})


def _toml_value(raw: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    # A newline in the value could smuggle in more keys; then it is just a string.
    return parsed["value"] if len(parsed) == 1 else raw


# --- errors people can act on ----------------------------------------------------------------


def _explain(error: Mapping[str, Any], table: Toml, model: type[BaseModel]) -> tuple[str, str]:
    """One pydantic error as (dotted key, what is wrong with it)."""
    key = _dotted(error["loc"], table)
    kind, message, given = error["type"], str(error["msg"]), error["input"]
    if kind == "extra_forbidden":
        return key, f"unknown key; {_near(key, model)}"
    if kind == "missing":
        return key, "is required"
    if kind == "value_error":
        return key, message.removeprefix("Value error, ")
    if kind == "union_tag_not_found":
        return key, f"needs a type; set {key}.type to one of {', '.join(_types_at(key, model))}"
    if kind == "union_tag_invalid":
        tags, tag = error["ctx"]["expected_tags"], error["ctx"]["tag"]
        return f"{key}.type", f"must be one of {tags}, got {tag!r}"
    text = message.replace("Input should be", "must be")
    text = text[0].lower() + text[1:]
    return key, text if isinstance(given, dict) else f"{text}, got {given!r}"


def _source(key: str, source: str, overrides: Sequence[str]) -> str:
    """Where the value came from: the override that set it, else the source and what overrode it."""
    set_keys = [override.partition("=")[0].strip() for override in overrides]
    if key and key in set_keys:
        return f"--set {key}"
    inside = [f"--set {k}" for k in set_keys if not key or k.startswith(f"{key}.")]
    return ", ".join([source, *inside])


def _dotted(loc: Sequence[str | int], table: object) -> str:
    """The key as the user wrote it: without the union tags that pydantic puts in its path."""
    parts: list[str] = []
    node = table
    for depth, part in enumerate(loc, start=1):
        if isinstance(node, dict):
            if part not in node and (node.get("type") == part or depth < len(loc)):
                continue  # the tag of a union; where `type` has a default, the table may lack it
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            node = node[part]
        else:
            break  # the member of a plain union, such as `bool` in an option's value
        parts.append(str(part))
    return ".".join(parts)


def _near(key: str, model: type[BaseModel]) -> str:
    """What an unknown key may have been meant to be."""
    known = sorted(set(_keys(model)))
    parent, _, name = key.rpartition(".")
    if key in known:
        return f"it belongs to another type of {parent}; set {parent}.type, or drop it."
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    close = [f"{parent}.{n}".lstrip(".") for n in difflib.get_close_matches(name, siblings, n=3)]
    same_name = [k for k in known if k.rpartition(".")[2] == name]
    close += [k for k in same_name if k.split(".")[0] == key.split(".")[0]] or same_name
    close = close or difflib.get_close_matches(key, known, n=3)
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(close))}?"
    if siblings:
        return f"{parent or 'the top level'} knows {', '.join(sorted(set(siblings)))}."
    return "remove it."


def _types_at(key: str, model: type[BaseModel]) -> list[str]:
    names = {k.rpartition("=")[2] for k in _keys(model, types=True) if k.startswith(f"{key}.type=")}
    return sorted(names)


def _keys(model: type[BaseModel], prefix: str = "", *, types: bool = False) -> Iterator[str]:
    """Every dotted key of a model and the models inside it, over all members of its unions."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield key
        if types and name == "type":
            yield from (f"{key}={tag}" for tag in get_args(field.annotation))
        for inner in _models_in(field.annotation):
            yield from _keys(inner, f"{key}.", types=types)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


# --- writing ---------------------------------------------------------------------------------


def dump_toml(pipeline: Pipeline) -> str:
    """The resolved configuration as TOML, defaults included; loading it gives the same pipeline.

    Keys that were not given and would be refused if they were (they have no effect here, such as
    `final_frac` under a constant schedule) are left out.
    """
    lines: list[str] = []
    _dump_table(_resolved(pipeline), "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _resolved(model: BaseModel) -> Toml:
    """The model as a table that validates: given keys, and defaults that may be written down."""

    def plain(value: object) -> object:
        if isinstance(value, BaseModel):
            return _resolved(value)
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return dict(value) if isinstance(value, Mapping) else value

    values = {name: plain(getattr(model, name)) for name in type(model).model_fields}
    given = {n: v for n, v in values.items() if v is not None and n in model.model_fields_set}
    given |= {"type": values["type"]} if "type" in values else {}
    for name, value in values.items():
        if name in given or value is None:
            continue
        try:
            type(model).model_validate({**given, name: value})
        except ValidationError:
            continue
        given[name] = value
    return {name: given[name] for name in values if name in given}


def _dump_table(table: Toml, prefix: str, lines: list[str]) -> None:
    """Scalars first, then sub-tables: TOML's order."""
    inside = {k: v for k, v in table.items() if _is_table(v) or _is_tables(v)}
    lines += [f"{_toml_key(k)} = {_toml_literal(v)}" for k, v in table.items() if k not in inside]
    for key, value in inside.items():
        name = f"{prefix}{_toml_key(key)}"
        for item in value if _is_tables(value) else [value]:
            lines += ["", f"[[{name}]]" if _is_tables(value) else f"[{name}]"]
            _dump_table(item, f"{name}.", lines)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _toml_literal(key)


def _toml_literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON's string escapes are TOML's, but for DEL and surrogate pairs.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(_toml_literal(v) for v in value)}]"
    raise AssertionError(f"a configuration holds {type(value).__name__}, which TOML lacks")


# --- comparing -------------------------------------------------------------------------------


def differing_keys(old: Pipeline, new: Pipeline) -> dict[str, tuple[str, str]]:
    """Dotted key -> (old, new) as TOML literals for each key that differs; absent is `unset`."""
    before, after = _flat(_resolved(old)), _flat(_resolved(new))
    return {
        key: (before.get(key, "unset"), after.get(key, "unset"))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        items = {str(k): v for k, v in value.items()}
    elif _is_tables(value):
        items = {str(i): v for i, v in enumerate(value)}  # pyright: ignore[reportArgumentType]
    else:
        return {prefix: _toml_literal(value)}
    return {
        k: v
        for name, v in items.items()
        for k, v in _flat(v, f"{prefix}.{name}".lstrip(".")).items()
    }
