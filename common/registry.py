"""Things of one kind by name, imported when they are asked for: their names cost nothing."""

from collections.abc import Iterator, MutableMapping
from difflib import get_close_matches
from importlib import import_module
from typing import TypeVar, cast

from dhpf.common.errors import UserError

T = TypeVar("T")


class UnknownNameError(UserError, KeyError):
    """Nothing has that name."""

    __str__ = Exception.__str__  # a KeyError shows its key


class Registry(MutableMapping[str, T]):
    """A dictionary whose own entries are places, 'module:attribute'; others enter theirs with `registry[name] = thing`.

    Args:
        kind: what the things are, for messages.
    Raises (on access):
        UnknownNameError: a UserError that names the closest.
    """

    def __init__(self, kind: str, places: dict[str, str]) -> None:
        self.kind = kind
        self._things: dict[str, T | str] = dict(places)

    def __getitem__(self, name: str) -> T:
        thing = self._things[self.checked(name)]
        if isinstance(thing, str):
            module, _, attribute = thing.partition(":")
            thing = self._things[name] = cast(T, getattr(import_module(module), attribute))
        return thing

    def checked(self, name: str) -> str:
        """The name, if something has it."""
        if name not in self._things:
            close = get_close_matches(name, self._things, 1)
            near = f"did you mean {close[0]}? " if close else ""
            raise UnknownNameError(f"there is no {self.kind} '{name}': {near}choose one of {', '.join(self)}")
        return name

    def __setitem__(self, name: str, thing: T) -> None:
        self._things[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
