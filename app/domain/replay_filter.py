"""What a replay batch asks for: a filter that is read strictly, and whose time range is frozen when the plan is made. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.domain.envelopes import FieldError, parse_time
from app.domain.replay_batch import SELECTABLE
from app.domain.states import CommandType, PriorityClass

VALUES_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFilter:
    """Every part narrows; an empty part asks for all. Times are of acceptance; `to_at` is never in the future."""

    intents: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    from_at: datetime | None = None
    to_at: datetime

    def document(self) -> dict[str, Any]:
        """As people and programs see it; parts that ask for all are left out."""
        lists = {
            "intent": self.intents,
            "priority": self.priorities,
            "state": self.states,
            "contact_id": self.contacts,
            "command_id": self.commands,
        }
        shown: dict[str, Any] = {name: list(values) for name, values in lists.items() if values}
        if self.from_at is not None:
            shown["from"] = self.from_at
        return shown | {"to": self.to_at}


_LISTS: Final[Mapping[str, Callable[[str], bool]]] = {
    "intent": lambda v: v in set(CommandType),
    "priority": lambda v: v in set(PriorityClass),
    "state": lambda v: v in SELECTABLE,
    "contact_id": lambda v: len(v) <= 200,
    "command_id": lambda v: len(v) <= 200,
}
_TIMES: Final = ("from", "to")


def read_filter(raw: Mapping[str, Any], now: datetime) -> tuple[ReplayFilter | None, list[FieldError]]:
    """The filter in a request, or what is wrong with it. One that asks for nothing in particular is refused."""
    errors: list[FieldError] = []
    lists = {name: _texts(name, raw.get(name), check, errors) for name, check in _LISTS.items()}
    times = {name: _time(name, raw.get(name), errors) for name in _TIMES}
    named_tenant = isinstance(raw.get("tenant_id"), str) and bool(raw["tenant_id"])
    for name in raw:
        if name not in (*_LISTS, *_TIMES, "tenant_id"):
            known = ", ".join(("tenant_id", *_LISTS, *_TIMES))
            errors.append(FieldError(f"/filter/{name}", f"is not part of a filter; known are {known}"))
    if not errors and not any(lists.values()) and not any(times.values()) and not named_tenant:
        errors.append(FieldError("/filter", "is empty; name at least one of what should be replayed"))
    to_at = min(times["to"] or now, now)
    if times["from"] is not None and times["from"] > to_at:
        errors.append(FieldError("/filter/from", "must not be after the end of the range"))
    if errors:
        return None, errors
    return (
        ReplayFilter(
            intents=lists["intent"],
            priorities=lists["priority"],
            states=lists["state"],
            contacts=lists["contact_id"],
            commands=lists["command_id"],
            from_at=times["from"],
            to_at=to_at,
        ),
        [],
    )


def _texts(name: str, value: Any, good: Callable[[str], bool], errors: list[FieldError]) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    if len(values) > VALUES_MAX:
        errors.append(FieldError(f"/filter/{name}", f"must have at most {VALUES_MAX} values"))
        return ()
    if not all(isinstance(v, str) and good(v) for v in values):
        errors.append(FieldError(f"/filter/{name}", "has a value that nothing can be replayed by"))
        return ()
    return tuple(dict.fromkeys(values))


def _time(name: str, value: Any, errors: list[FieldError]) -> datetime | None:
    if value is None or value == "":
        return None
    try:
        return parse_time(value)
    except ValueError as error:
        errors.append(FieldError(f"/filter/{name}", str(error)))
        return None
