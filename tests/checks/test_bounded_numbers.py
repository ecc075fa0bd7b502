"""Every number that comes from outside has an upper bound: in messages, settings, policies and price lists.

A number without one becomes an OverflowError far from where it was read: a date beyond all dates, a column too small.
"""

from __future__ import annotations

import importlib
import pkgutil
import typing
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import services
import shared

NUMBERS = (int, float, Decimal, timedelta)
BOUNDS = ("le=", "lt=", "max_digits=")
READ = (
    "shared.messages",
    "shared.config",
    "shared.store.settings",
    "services.donor_agent.policy",
    "services.recipient_agent.capacity",
    "services.recipient_agent.pricing",
    "services.recipient_agent.quote",
)
"""Modules whose models are read from outside, besides each service's settings."""


def modules() -> Iterator[ModuleType]:
    """Those whose models are read from outside."""
    for package in (services, shared):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.startswith(READ) or found.name.endswith(".settings"):
                yield importlib.import_module(found.name)


def models() -> list[type[BaseModel]]:
    """All models of these modules."""
    kinds = {each for module in modules() for each in vars(module).values() if isinstance(each, type)}
    return sorted((each for each in kinds if issubclass(each, BaseModel) and each is not BaseModel), key=str)


def numbers_in(kind: Any, bounds: str) -> Iterator[str]:
    """What bounds each number within a type has to itself, as text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        named = " ".join(
            " ".join(map(repr, each.metadata)) if isinstance(each, FieldInfo) else repr(each) for each in arguments[1:]
        )
        yield from numbers_in(arguments[0], f"{bounds} {named}")
    elif arguments:
        is_container = isinstance(origin, type) and issubclass(origin, tuple | list | dict | set | frozenset)
        for argument in arguments:
            yield from numbers_in(argument, "" if is_container else bounds)
    elif kind in NUMBERS:
        yield bounds


def unbounded(model: type[BaseModel]) -> list[str]:
    """The model's fields that hold a number without an upper bound."""
    return [
        name
        for name, field in model.model_fields.items()
        for bounds in numbers_in(field.annotation, " ".join(map(repr, field.metadata)))
        if not any(bound in bounds for bound in BOUNDS)
    ]


@pytest.mark.parametrize("model", models(), ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_every_number_is_bounded(model: type[BaseModel]) -> None:
    """From above: below, zero is nearly always the end by itself."""
    assert unbounded(model) == []


def test_a_number_without_a_bound_is_found() -> None:
    """Bare, optional, or in a tuple; a bound of the tuple is none of its numbers'."""

    class Sample(BaseModel):
        bare: int
        optional: float | None
        several: typing.Annotated[tuple[int, ...], FieldInfo(max_length=3, le=2)]
        bounded: typing.Annotated[int, FieldInfo(le=3)] | None

    assert unbounded(Sample) == ["bare", "optional", "several"]
