"""Strict models: unknown keys refused with the nearest known one, all mistakes told at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError, near_miss

ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """Frozen, unknown keys forbidden. A number may be written as text: YAML reads 1e-3 as one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def build(model: type[ModelT], values: Mapping[str, Any], where: str) -> ModelT:
    """Validate `values` as `model`. Raises ConfigError with one line per mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, detail, where) for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], detail: Any, where: str) -> str:
    keys, _ = _walk(model, detail["loc"])
    dotted = ".".join(keys)
    match detail["type"]:
        case "extra_forbidden":
            _, kinds = _walk(model, detail["loc"][:-1])
            known = sorted({name for kind in _models(kinds) for name in kind.model_fields})
            return f"{where}: {dotted}: unknown key.{near_miss(keys[-1], known)}"
        case "missing":
            return f"{where}: {dotted}: missing. There is no default; write the value you want."
        case _:
            found = repr(detail.get("input"))
            found = found if len(found) <= 60 else found[:57] + "..."
            return f"{where}: {dotted}: {detail['msg']} (found {found})."


def _walk(model: type[BaseModel], location: tuple[Any, ...]) -> tuple[list[str], list[Any]]:
    """Return a location's keys as the file has them, and the types allowed there, if known.

    In a union of models pydantic names the member it tried by its tag, a level no file has.
    """
    keys: list[str] = []
    kinds: list[Any] = [model]
    for part in location:
        models = _models(kinds)
        if len(models) > 1:
            kinds = [kind for kind in models if part in _tags(kind)]
            continue
        keys.append(str(part))
        if models:
            field = models[0].model_fields.get(part)
            kinds = _unfold(field.annotation) if field else []
        else:  # dict[str, X] or list[X]: the part is a key
            kinds = [k for kind in kinds for arg in get_args(kind)[-1:] for k in _unfold(arg)]
    return keys, kinds


def _models(kinds: list[Any]) -> list[type[BaseModel]]:
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _tags(kind: type[BaseModel]) -> set[Any]:
    return {tag for field in kind.model_fields.values() for tag in get_args(field.annotation)}


def _unfold(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unfold(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [inner for arg in get_args(annotation) for inner in _unfold(arg)]
    return [annotation]
