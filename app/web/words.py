"""How screens say times, spans and numbers: in the reader's language, in the clinic's timezone, on the server's clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from babel.dates import format_datetime
from babel.numbers import format_decimal

from app.web.i18n import mark, translations


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one screen at one moment."""

    locale: str
    zone: ZoneInfo
    now: datetime

    def text(self, message: str, **values: Any) -> str:
        """A message of the catalog with its values."""
        found = translations(self.locale).gettext(message)
        return found % values if values else found

    def count(self, one: str, many: str, n: int, **values: Any) -> str:
        """A message in the singular or plural; `%(n)s` is the number as people write it."""
        found = translations(self.locale).ngettext(one, many, n)
        return found % {"n": self.number(n), **values}

    def number(self, value: float) -> str:
        """A number with the language's separators."""
        return format_decimal(value, locale=self.locale)

    # --- times ----------------------------------------------------------------------------------------------------------

    def local(self, moment: datetime) -> datetime:
        """The moment on the clinic's wall clock."""
        return moment.astimezone(self.zone)

    def clock(self, moment: datetime) -> str:
        """`14:20`, with the day when it is not today."""
        local = self.local(moment)
        if local.date() == self.local(self.now).date():
            return f"{local:%H:%M}"
        return f"{self.day(moment)} {local:%H:%M}"

    def exact(self, moment: datetime) -> str:
        """Day, time and seconds, for details."""
        pattern = "dd/MM/yyyy HH:mm:ss" if self.locale == "pt_BR" else "d MMM yyyy HH:mm:ss"
        return format_datetime(self.local(moment), pattern, locale=self.locale)

    def day(self, moment: datetime) -> str:
        """`qui. 26/11` or `Thu 26 Nov`; today and tomorrow by name."""
        local = self.local(moment)
        days = (local.date() - self.local(self.now).date()).days
        if days == 0:
            return self.text("today")
        if days == 1:
            return self.text("tomorrow")
        pattern = "EEE dd/MM" if self.locale == "pt_BR" else "EEE d MMM"
        if abs(days) > 300:
            pattern += "/yyyy" if self.locale == "pt_BR" else " yyyy"
        return format_datetime(local, pattern, locale=self.locale)

    def visit(self, moment: datetime) -> str:
        """An appointment's start: `qui. 26/11 10:00`."""
        return f"{self.day(moment)} {self.local(moment):%H:%M}"

    def span(self, span: timedelta | float) -> str:
        """`45 s`, `12 min`, `2 h 10 min`, `3 d`."""
        seconds = int(span.total_seconds() if isinstance(span, timedelta) else span)
        seconds = max(0, seconds)
        if seconds < 60:
            return self.text("%(s)d s", s=seconds)
        minutes, hours = seconds // 60, seconds // 3600
        if minutes < 60:
            return self.text("%(m)d min", m=minutes)
        if hours < 24:
            rest = minutes % 60
            return self.text("%(h)d h %(m)d min", h=hours, m=rest) if rest else self.text("%(h)d h", h=hours)
        return self.text("%(d)d d", d=hours // 24)

    def ago(self, moment: datetime) -> str:
        """`há 12 min`; just now below a second."""
        past = self.now - moment
        return self.text("%(span)s ago", span=self.span(past))

    def left(self, moment: datetime) -> str:
        """`faltam 7 min`, or `venceu há 3 min` behind a deadline."""
        if moment <= self.now:
            return self.text("overdue by %(span)s", span=self.span(self.now - moment))
        return self.text("%(span)s left", span=self.span(moment - self.now))

    def seconds(self, value: float) -> str:
        """A short duration with the digits that matter: `0,25 s`, `3,4 s`, `2 min`."""
        if value >= 60:
            return self.span(value)
        digits = "0.00" if value < 1 else "0.0"
        return self.text("%(value)s s", value=format_decimal(value, format=digits, locale=self.locale))

    def script_words(self) -> dict[str, str]:
        """What the page's scripts say."""
        return {name: self.text(message) for name, message in _SCRIPT_WORDS.items()}


_SCRIPT_WORDS = {
    "second": mark("%(s)d s"),
    "minute": mark("%(m)d min"),
    "hour": mark("%(h)d h"),
    "hour_minute": mark("%(h)d h %(m)d min"),
    "day": mark("%(d)d d"),
    "ago": mark("%(span)s ago"),
    "left": mark("%(span)s left"),
    "overdue": mark("overdue by %(span)s"),
    "due_now": mark("due; waiting for the server"),
    "live": mark("Live"),
    "connecting": mark("Connecting"),
    "stale": mark("Delayed"),
    "off": mark("Disconnected"),
    "off_title": mark("DISCONNECTED"),
    "off_said": mark("Disconnected. What you see may be out of date."),
    "back_said": mark("Connected again. What you see is up to date."),
    "paused_one": mark("Paused: 1 change"),
    "paused_many": mark("Paused: %(n)d changes"),
    "paused_all": mark("Updates paused. Press p to go on."),
    "resumed": mark("Updates go on."),
    "changed_one": mark("%(region)s: 1 change"),
    "changed_many": mark("%(region)s: %(n)d changes"),
    "gone": mark("left the list"),
    "contact": mark("contact"),
    "safe_off": mark("Safe mode is off."),
    "failsafe": mark("Safe mode begins by itself"),
    "zone": mark("Times on this screen: %(zone)s. This device is in %(own)s."),
}
