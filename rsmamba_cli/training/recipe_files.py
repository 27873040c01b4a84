"""Recipes: the settings of a run from YAML, with overrides as text.

A file holds the settings that differ from the defaults, or with ``extends: NAME`` from another.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, overload

import yaml
from pydantic import BaseModel, ValidationError

from rsmamba_cli.errors import InputError
from rsmamba_cli.training.recipe import Config, RunConfig, TrainConfig


def list_recipes(kind: type[RunConfig] = TrainConfig) -> list[str]:
    """Names of the recipes that come with the toolkit."""
    folder = resources.files(kind.recipes) / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[0] != ".")


@overload
def load_recipe(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> TrainConfig: ...
@overload
def load_recipe(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    kind: type[Config],
) -> Config: ...
def load_recipe(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    kind: type[RunConfig] = TrainConfig,
) -> RunConfig:
    """Read a recipe and apply overrides.

    Args:
        recipe: the name of one that comes with the toolkit, or a YAML file; None means "default".
        overrides: ``key=value`` with a dotted key, such as ``optimiser.lr=3e-4`` or
            ``data.bands=[4,3,2]``; the value is YAML and takes the setting's type. They win over
            everything else.
        values: dotted key -> value, which win over the recipe; None values are left out.
        kind: of training.

    Raises:
        InputError: no such recipe, an unknown setting (with the nearest that exists), or a value
            that does not fit.
    """
    name = "default" if recipe is None else str(recipe)
    content = _read(name, kind)
    for key, value in (values or {}).items():
        if value is not None:
            _assign(content, key, value)
    for line in overrides:
        key, equals, text = line.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes KEY=VALUE (such as optimiser.lr=3e-4), not {line!r}.")
        try:
            value = None if text.strip().lower() == "none" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {line}: the value is not YAML ({error}).") from error
        _assign(content, key.strip(), value)
    return validate_config(content, f"the recipe {name}", kind)


def overfitting(config: TrainConfig, tiles: int) -> TrainConfig:
    """The same recipe learning a few tiles by heart, to see whether it can learn at all.

    Nothing is changed at random, and the tiles that are learnt are those that are measured.

    Args:
        config: a recipe.
        tiles: how many training tiles.
    """
    content: dict[str, Any] = config.model_dump()
    content["data"] |= {
        "limit": tiles,
        "val_limit": tiles,
        "val_split": config.data.train_split,
    }
    content["augment"] = {"flip": 0.0, "transpose": 0.0, "swap_dates": 0.0}
    content["data"]["demo"]["fresh"] = False
    return validate_config(content, f"the recipe {config.name} with --overfit", TrainConfig)


def validate_config(content: Mapping[str, Any], what: str, kind: type[Config]) -> Config:
    """Turn plain values into settings.

    Raises:
        InputError: as `load_recipe`.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [_explain(dict(problem), kind) for problem in error.errors()]
        raise InputError(f"In {what}: " + "; ".join(lines) + ".") from error


def _read(name: str, kind: type[RunConfig]) -> dict[str, Any]:
    """Read a recipe by name or path, on top of the one that it ``extends``.

    Raises:
        InputError: there is none, it is not YAML, or it extends itself.
    """
    content = _read_alone(name, kind)
    content.setdefault("name", Path(name).stem)
    seen = [name]
    while (base := content.pop("extends", None)) is not None:
        seen.append(str(base))
        if seen[-1] in seen[:-1]:
            raise InputError(f"The recipe {name} extends itself: {' -> '.join(seen)}.")
        content = _merged(_read_alone(seen[-1], kind), content)
    return content


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with those of ``changes`` in the place of their namesakes."""
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        out[key] = _merged(base[key], value) if both else value
    return out


def _read_alone(name: str, kind: type[RunConfig]) -> dict[str, Any]:
    """Read the YAML of one recipe by name or path."""
    known = list_recipes(kind)
    if name in known:
        folder = resources.files(kind.recipes) / "recipes"
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(
                f"There is no recipe {name}: neither a file nor one of {', '.join(known)}.{hint}"
            )
        text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {name} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"The recipe {name} holds no settings.")
    return content


def _assign(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings.

    Raises:
        InputError: a part of the key is a value, not a group of settings.
    """
    *groups, last = key.split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise InputError(f"{key}: {group} is a setting, not a group of settings.")
    content[last] = value


def _explain(problem: Mapping[str, Any], kind: type[RunConfig]) -> str:
    """One pydantic problem in plain words, with the nearest key for an unknown one."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(_keys(kind))
        near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
        ending = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        hint = next(iter(ending + near), None)
        return f"there is no setting {key}" + (f" (did you mean {hint}?)" if hint else "")
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{key or 'settings'}: {message[:1].lower()}{message[1:]} (got {problem['input']!r})"


def _keys(part: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of the settings."""
    for name, field in part.model_fields.items():
        yield prefix + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")


def flattened(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys."""
    out: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            out |= flattened(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
