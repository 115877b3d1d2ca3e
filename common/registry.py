"""Things of one kind by name, imported when they are asked for: their names cost nothing."""

from collections.abc import Iterator, MutableMapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar, cast

from dhpf.common.errors import UserError

T = TypeVar("T")


class UnknownNameError(UserError, KeyError):
    """Nothing has that name."""

    __str__ = Exception.__str__  # a KeyError shows its key


class Registry(MutableMapping[str, T]):
    """A dictionary whose own entries are places, 'module:attribute'; others enter theirs with `registry[name] = thing`.

    Args:
        kind: what the things are, for messages.
        families: by prefix, a place of a function that makes a thing of a name 'prefix:anything'.
    Raises (on access):
        UnknownNameError: a UserError that names the closest.
    """

    def __init__(self, kind: str, places: dict[str, str], families: dict[str, str] | None = None) -> None:
        self.kind = kind
        self.families = families or {}
        self._things: dict[str, T | str] = dict(places)
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        thing = self._made.get(self.checked(name)) or self._things.get(name)
        if thing is None:
            thing = self._made[name] = imported(self.families[name.partition(":")[0]])(name)
        elif isinstance(thing, str):
            thing = self._things[name] = cast(T, imported(thing))
        return thing

    def checked(self, name: str) -> str:
        """The name, if something has it."""
        if name not in self:
            close = get_close_matches(name, self._things, 1)
            near = f"did you mean {close[0]}? " if close else ""
            known = ", ".join([*self, *(f"{prefix}:NAME" for prefix in self.families)])
            raise UnknownNameError(f"there is no {self.kind} '{name}': {near}choose one of {known}")
        return name

    def __setitem__(self, name: str, thing: T) -> None:
        self._things[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._things[name]

    def __contains__(self, name: object) -> bool:
        prefix, _, rest = str(name).partition(":")
        return name in self._things or (prefix in self.families and bool(rest))

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def imported(place: str) -> Any:
    """What 'module:attribute' names."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
