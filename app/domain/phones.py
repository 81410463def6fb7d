"""Phone numbers as E.164, so that one family is one contact however a provider writes its number.

Brazil's mobile numbers exist with and without the ninth digit (a WhatsApp id often still lacks it): both forms are the
same contact and are stored with the nine.
"""

from typing import Final

import phonenumbers

_PERSONAL_HOSTS: Final = frozenset({"s.whatsapp.net", "c.us"})
"""Hosts of a JID that stand for one person's number; groups, broadcasts, channels and privacy ids (`lid`) carry none."""
_BRAZIL: Final = "55"
_MOBILE_FIRST_DIGITS: Final = frozenset("6789")
_LONGEST: Final = 40


def e164(text: str | None, region: str = "BR") -> str | None:
    """`+5511987654321` from a number as people write it; None when it cannot be a phone number.

    A number without a leading `+` is read in `region`, whose country code it may carry.
    """
    if not text or len(text) > _LONGEST:
        return None
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    national = phonenumbers.national_significant_number(number)
    if str(number.country_code) == _BRAZIL:
        national = _with_ninth_digit(national)
    return f"+{number.country_code}{national}"


def from_whatsapp_id(identifier: str | None) -> str | None:
    """E.164 of a bare `wa_id` or a personal JID (`5511...@s.whatsapp.net`, `...@c.us`, with or without a device suffix).

    None for groups, broadcasts, channels and `lid` privacy ids, which carry no number.
    """
    if not identifier:
        return None
    user, at, host = identifier.strip().partition("@")
    if at and host.lower() not in _PERSONAL_HOSTS:
        return None
    digits = user.partition(":")[0].partition("_")[0].removeprefix("+")
    if not digits.isascii() or not digits.isdigit():
        return None
    return e164(f"+{digits}")


def is_group(identifier: str | None) -> bool:
    """Whether a JID is a group, a broadcast list or a channel: nobody's private conversation."""
    return identifier is not None and identifier.lower().endswith(("@g.us", "@broadcast", "@newsletter"))


def _with_ninth_digit(national: str) -> str:
    """A Brazilian national number; an eight-digit mobile one gets the nine that it has lacked since 2016."""
    if len(national) == 10 and national[2] in _MOBILE_FIRST_DIGITS:
        return f"{national[:2]}9{national[2:]}"
    return national
