"""Names to parts: one line joins, loading is lazy, a wrong name is answered with the right one."""

import functools
import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from tunewise.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by name. An entry is `"package.module:attribute"`, imported when it is first asked for.

    Third parties join by the entry-point group `tunewise.<kind>`, whose names must not clash with built-in ones.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._builtin = dict(entries)

    def _entries(self) -> dict[str, str]:
        return {**_joined(f"tunewise.{self.kind}"), **self._builtin}

    def names(self) -> tuple[str, ...]:
        """All names: built-in ones first, in their order."""
        return tuple(dict.fromkeys([*self._builtin, *self._entries()]))

    def __contains__(self, name: object) -> bool:
        return name in self._entries()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> T:
        """The part called `name`.

        Raises:
            ConfigError: no part has that name; the message offers the closest one.
        """
        entries = self._entries()
        if name not in entries:
            raise ConfigError(f"{self.kind}: there is no '{name}'.{did_you_mean(name, entries)}")
        module, attribute = entries[name].split(":")
        return cast(T, getattr(importlib.import_module(module), attribute))


@functools.cache
def _joined(group: str) -> Mapping[str, str]:
    """The parts of other packages; looked up once, because that reads the metadata of everything installed."""
    return {point.name: point.value for point in entry_points(group=group)}
