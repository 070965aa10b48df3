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
    path = [str(part) for part in detail["loc"]]
    dotted = ".".join(path)
    match detail["type"]:
        case "extra_forbidden":
            known = _fields(model, detail["loc"][:-1])
            return f"{where}: {dotted}: unknown key.{near_miss(path[-1], known)}"
        case "missing":
            return f"{where}: {dotted}: missing. There is no default; write the value you want."
        case _:
            found = repr(detail.get("input"))
            found = found if len(found) <= 60 else found[:57] + "..."
            return f"{where}: {dotted}: {detail['msg']} (found {found})."


def _fields(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the field names allowed at a location inside a model, as far as they are known."""
    current: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for kind in current:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                if part in kind.model_fields:
                    following += _unfold(kind.model_fields[part].annotation)
                elif part in _tags(kind):
                    following.append(kind)
            else:  # dict[str, X] or list[X]: the part is a key
                following += [inner for arg in get_args(kind)[-1:] for inner in _unfold(arg)]
        current = following or current
    return sorted(
        {
            name
            for kind in current
            if isinstance(kind, type) and issubclass(kind, BaseModel)
            for name in kind.model_fields
        }
    )


def _tags(kind: type[BaseModel]) -> set[Any]:
    return {tag for field in kind.model_fields.values() for tag in get_args(field.annotation)}


def _unfold(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unfold(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [inner for arg in get_args(annotation) for inner in _unfold(arg)]
    return [annotation]
