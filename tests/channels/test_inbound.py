"""What the parsers make of providers' bodies."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.channels import alertmanager, evolution, uazapi, whatsapp
from app.channels.inbound import NotJson, Parsed, clean, decode, redact_secrets, secret_is_valid, signature_is_valid
from app.domain.envelopes import Malformed, Message, canonical_json
from tests.channels import payloads as p

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SENT = datetime.fromtimestamp(1795435200, UTC)


def cloud(document: Any, number: str | None = p.PHONE_NUMBER_ID) -> Parsed:
    return whatsapp.parse(document, tenant_id="t", phone_number_id=number, received_at=NOW)


def one(parsed: Parsed) -> Message:
    (item,) = parsed.items
    assert isinstance(item, Message)
    return item


# --- Cloud API ----------------------------------------------------------------------------------------------------------


def test_two_messages_and_a_status_in_one_post_are_all_read_in_order() -> None:
    body = p.cloud(p.cloud_change([p.cloud_message("wamid.1"), p.cloud_message("wamid.2", "Oi")], [p.cloud_status()]))
    parsed = cloud(body)
    assert [m.external_id for m in parsed.items if isinstance(m, Message)] == ["wamid.1", "wamid.2"]
    assert [(d.provider_message_id, d.status) for d in parsed.deliveries] == [("wamid.OUT", "delivered")]
    first = parsed.items[0]
    assert isinstance(first, Message)
    assert (first.phone, first.profile_name, first.occurred_at) == ("+5511987654321", "Maria", SENT)
    assert (first.text, first.channel, first.contact_id) == ("Quero remarcar", "whatsapp", None)


def test_every_entry_and_change_is_read() -> None:
    body = p.cloud(p.cloud_change([p.cloud_message("wamid.1")]), p.cloud_change([p.cloud_message("wamid.2")]))
    body["entry"].append({"id": "2", "changes": [p.cloud_change([p.cloud_message("wamid.3")])]})
    assert len(cloud(body).items) == 3


def test_a_message_that_comes_again_gets_the_same_ids() -> None:
    body = p.cloud(p.cloud_change([p.cloud_message()]))
    first, again = one(cloud(body)), one(cloud(body))
    assert (first.event_id, first.correlation_id) == (again.event_id, again.correlation_id)
    elsewhere = one(whatsapp.parse(body, tenant_id="other", phone_number_id=None, received_at=NOW))
    assert elsewhere.event_id != first.event_id


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {
                "type": "interactive",
                "interactive": {"type": "button_reply", "button_reply": {"id": "CONFIRMAR", "title": "Confirmo"}},
            },
            {"kind": "button_reply", "text": "Confirmo", "button_id": "CONFIRMAR"},
        ),
        (
            {"type": "interactive", "interactive": {"type": "list_reply", "list_reply": {"id": "s1", "title": "Terça"}}},
            {"kind": "list_reply", "text": "Terça", "button_id": "s1"},
        ),
        (
            {"type": "button", "button": {"payload": "CONFIRMAR", "text": "Sim"}},
            {"kind": "button", "text": "Sim", "button_id": "CONFIRMAR"},
        ),
        (
            {"type": "image", "image": {"id": "9", "mime_type": "image/jpeg", "caption": "laudo"}},
            {"kind": "image", "text": "laudo"},
        ),
        ({"type": "audio", "audio": {"id": "9", "voice": True}}, {"kind": "audio", "media": {"id": "9", "voice": True}}),
        ({"type": "document", "document": {"id": "9", "filename": "a.pdf"}}, {"media": {"id": "9", "filename": "a.pdf"}}),
        ({"type": "reaction", "reaction": {"message_id": "wamid.X", "emoji": "👍"}}, {"emoji": "👍", "reply_to": "wamid.X"}),
        ({"type": "location", "location": {"latitude": 1.5}}, {"location": {"latitude": 1.5}}),
        ({"type": "unsupported", "errors": [{"code": 131051}]}, {"kind": "unsupported"}),
        ({"type": "text", "text": {"body": "Sim"}, "context": {"from": "1", "id": "wamid.Q"}}, {"reply_to": "wamid.Q"}),
    ],
)
def test_each_type_of_message_is_kept_in_our_words(part: dict[str, Any], expected: dict[str, Any]) -> None:
    raw = {k: v for k, v in p.cloud_message().items() if k != "text"} | part
    payload = one(cloud(p.cloud(p.cloud_change([raw])))).payload
    assert {k: payload.get(k) for k in expected} == expected


def test_a_reaction_carries_no_words_that_could_confirm_anything() -> None:
    raw = p.cloud_message() | {"type": "reaction", "reaction": {"message_id": "wamid.X", "emoji": "CONFIRMAR"}}
    assert one(cloud(p.cloud(p.cloud_change([raw])))).text == ""


def test_a_number_change_is_a_system_event() -> None:
    raw = p.cloud_message() | {"type": "system", "system": {"type": "user_changed_number", "new_wa_id": "5511911112222"}}
    assert one(cloud(p.cloud(p.cloud_change([raw])))).event_type == "system"


def test_a_failed_status_keeps_its_code_and_our_reference() -> None:
    status = p.cloud_status(
        status="failed", errors=[{"code": 131047, "title": "Re-engagement message"}], biz_opaque_callback_data="ob-1"
    )
    (delivery,) = cloud(p.cloud(p.cloud_change(statuses=[status]))).deliveries
    assert (delivery.status, delivery.detail, delivery.reference) == ("failed", "131047 Re-engagement message", "ob-1")


def test_messages_of_another_number_are_kept_for_a_person() -> None:
    parsed = cloud(p.cloud(p.cloud_change([p.cloud_message("wamid.1"), p.cloud_message("wamid.2")], phone_number_id="999")))
    assert parsed.ignored == ["phone_number_id_mismatch"]
    assert [getattr(item, "reason", None) for item in parsed.items] == ["other_number"] * 2
    assert len({item.item_id for item in parsed.items if isinstance(item, Malformed)}) == 2


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"from": p.WA_ID, "type": "text"}, "missing_message_id"),
        ({"id": "wamid.1", "type": "text", "text": {"body": "oi"}}, "missing_phone"),
        ({"id": "wamid.1", "from": "x", "type": "text"}, "missing_phone"),
        ("text", "unknown_shape"),
        (None, "unknown_shape"),
    ],
)
def test_an_unusable_message_is_kept_for_a_person(message: Any, reason: str) -> None:
    (item,) = cloud(p.cloud(p.cloud_change([message]))).items
    assert isinstance(item, Malformed)
    assert item.reason == reason
    assert item.raw["item"] == message


@pytest.mark.parametrize(
    "document",
    [{}, [], None, "x", 1, {"object": "page", "entry": [{}]}, {"object": "whatsapp_business_account"}, p.cloud({"x": 1})],
)
def test_an_unknown_shape_is_kept_whole(document: Any) -> None:
    (item,) = cloud(document).items
    assert isinstance(item, Malformed)
    assert item.reason == "unknown_shape"


def test_one_bad_message_does_not_cost_the_others() -> None:
    parsed = cloud(p.cloud(p.cloud_change([{"bad": 1}, p.cloud_message("wamid.2")])))
    assert [type(i) for i in parsed.items] == [Malformed, Message]


def test_news_about_the_account_is_ignored() -> None:
    parsed = cloud(p.cloud({"field": "message_template_status_update", "value": {"event": "APPROVED"}}))
    assert (parsed.items, parsed.ignored) == ([], ["other_field"])


@pytest.mark.parametrize("timestamp", ["0", "x", None, -5, "99999999999999999999", 1e300, True])
def test_a_bad_timestamp_falls_back_to_the_time_of_arrival(timestamp: Any) -> None:
    assert one(cloud(p.cloud(p.cloud_change([p.cloud_message(timestamp=timestamp)])))).occurred_at == NOW


# --- Evolution ----------------------------------------------------------------------------------------------------------


def evo(document: Any) -> Parsed:
    return evolution.parse(document, tenant_id="t", received_at=NOW)


def test_a_message_of_evolution_has_the_ninth_digit_and_its_own_time() -> None:
    message = one(evo(p.evolution(p.evolution_message())))
    assert (message.phone, message.text, message.occurred_at) == ("+5511987654321", "Bom dia", SENT)
    assert (message.external_id, message.channel, message.profile_name) == ("3EB0A1", "evolution", "Maria")


def test_a_time_written_as_a_long_object_is_read() -> None:
    data = p.evolution_message() | {"messageTimestamp": {"low": 1795435200, "high": 0, "unsigned": True}}
    assert one(evo(p.evolution(data))).occurred_at == SENT


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"extendedTextMessage": {"text": "Oi", "contextInfo": {"stanzaId": "Q"}}}, {"text": "Oi", "reply_to": "Q"}),
        ({"buttonsResponseMessage": {"selectedButtonId": "CONFIRMAR", "selectedDisplayText": "Ok"}}, {"button_id": "CONFIRMAR"}),
        ({"templateButtonReplyMessage": {"selectedId": "b2"}}, {"button_id": "b2"}),
        (
            {"listResponseMessage": {"title": "Terça", "singleSelectReply": {"selectedRowId": "r1"}}},
            {"button_id": "r1", "text": "Terça"},
        ),
        ({"imageMessage": {"caption": "laudo", "mimetype": "image/png", "mediaKey": "k"}}, {"kind": "image", "text": "laudo"}),
        ({"ephemeralMessage": {"message": {"conversation": "some"}}}, {"text": "some"}),
        ({"pollUpdateMessage": {}}, {"kind": "conversation"}),
    ],
)
def test_contents_of_evolution(content: dict[str, Any], expected: dict[str, Any]) -> None:
    payload = one(evo(p.evolution(p.evolution_message(content)))).payload
    assert {k: payload.get(k) for k in expected} == expected
    assert "mediaKey" not in canonical_json(payload)


def test_with_a_privacy_id_the_phone_comes_from_the_alternative_address() -> None:
    data = p.evolution_message(remoteJid="123@lid", remoteJidAlt="5511987654321@s.whatsapp.net", addressingMode="lid")
    assert one(evo(p.evolution(data))).phone == "+5511987654321"


def test_a_message_without_a_phone_goes_to_a_person_without_the_providers_key() -> None:
    (item,) = evo(p.evolution(p.evolution_message(remoteJid="123@lid"))).items
    assert isinstance(item, Malformed)
    assert item.reason == "missing_phone"
    (whole,) = evo({"event": "", "apikey": "EVOLUTION-SECRET"}).items
    assert "EVOLUTION-SECRET" not in canonical_json(whole.raw)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "code"),
    [({"fromMe": True}, "from_me"), ({"remoteJid": "1-2@g.us"}, "group"), ({"remoteJid": "status@broadcast"}, "group")],
)
def test_own_messages_and_groups_are_ignored(key: dict[str, Any], code: str) -> None:
    parsed = evo(p.evolution(p.evolution_message(**key)))
    assert (parsed.items, parsed.ignored) == ([], [code])


def test_statuses_of_evolution_in_our_words() -> None:
    rows = [{"keyId": "K", "remoteJid": "x", "fromMe": True, "status": s} for s in ("SERVER_ACK", "READ", "ERROR")]
    assert [d.status for d in evo(p.evolution(rows, "messages.update")).deliveries] == ["sent", "read", "failed"]
    theirs = evo(p.evolution({"keyId": "K", "fromMe": False, "status": "READ"}, "MESSAGES_UPDATE"))
    assert (theirs.deliveries, theirs.ignored) == ([], ["not_ours"])


def test_other_events_of_evolution_are_ignored() -> None:
    assert evo(p.evolution({"state": "open"}, "connection.update")).ignored == ["other_event"]


def jwt(secret: str, claims: dict[str, Any], alg: str = "HS256") -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    import hashlib
    import hmac

    head = f"{part(json.dumps({'alg': alg}).encode())}.{part(json.dumps(claims).encode())}"
    return f"Bearer {head}.{part(hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest())}"


def test_a_bearer_token_of_evolution_needs_our_secret_hs256_and_a_future_end() -> None:
    end = (NOW + timedelta(minutes=10)).timestamp()
    assert evolution.jwt_is_valid("s", jwt("s", {"exp": end}), NOW)
    assert not evolution.jwt_is_valid("s", jwt("other", {"exp": end}), NOW)
    assert not evolution.jwt_is_valid("s", jwt("s", {"exp": end}, "none"), NOW)
    assert not evolution.jwt_is_valid("s", jwt("s", {"exp": end}), NOW + timedelta(minutes=12))
    assert not evolution.jwt_is_valid("s", jwt("s", {}), NOW)
    assert not evolution.jwt_is_valid(None, jwt("", {"exp": end}), NOW)
    for broken in ("", "Bearer", "Bearer a.b", "Bearer a.b.c", "Bearer ..", "Basic x", "Bearer é.é.é"):
        assert not evolution.jwt_is_valid("s", broken, NOW)


# --- Uazapi -------------------------------------------------------------------------------------------------------------


def uaz(document: Any) -> Parsed:
    return uazapi.parse(document, tenant_id="t", received_at=NOW)


def test_a_message_of_uazapi() -> None:
    message = one(uaz(p.uazapi()))
    assert (message.phone, message.text, message.occurred_at) == ("+5511987654321", "Bom dia", SENT)
    assert (message.external_id, message.channel) == ("3A55", "uazapi")
    assert one(uaz(p.uazapi({"messageid": None}))).external_id == "3A55"


def test_the_phone_of_uazapi_may_come_from_the_chat() -> None:
    lid_only = {"sender_pn": "", "chatid": "1@lid", "sender": "1@lid"}
    assert one(uaz(p.uazapi(lid_only))).phone == "+5511987654321"
    (item,) = uaz(p.uazapi(lid_only, chat={})).items
    assert isinstance(item, Malformed)
    assert item.reason == "missing_phone"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"fromMe": True}, "from_me"),
        ({"wasSentByApi": True}, "from_me"),
        ({"isGroup": True}, "group"),
        ({"chatid": "1@g.us"}, "group"),
    ],
)
def test_own_messages_and_groups_of_uazapi_are_ignored(message: dict[str, Any], code: str) -> None:
    assert uaz(p.uazapi(message)).ignored == [code]


def test_contents_of_uazapi() -> None:
    image = one(uaz(p.uazapi({"messageType": "ImageMessage", "text": "", "content": {"caption": "laudo"}})))
    assert (image.payload["kind"], image.text) == ("image", "laudo")
    button = one(uaz(p.uazapi({"messageType": "ButtonsResponseMessage", "text": "Ok", "buttonOrListid": "CONFIRMAR"})))
    assert button.payload["button_id"] == "CONFIRMAR"


def test_statuses_of_uazapi() -> None:
    event = {"MessageIDs": ["A", "B"], "Type": "Delivered", "Timestamp": 1795435200, "IsFromMe": "true"}
    parsed = uaz({"EventType": "messages_update", "state": "Delivered", "event": event})
    assert [(d.provider_message_id, d.status, d.at) for d in parsed.deliveries] == [
        ("A", "delivered", SENT),
        ("B", "delivered", SENT),
    ]
    assert uaz({"EventType": "messages_update", "event": event | {"IsFromMe": "false"}}).ignored == ["not_ours"]


def test_the_token_of_uazapi_is_never_kept() -> None:
    (item,) = uaz(p.uazapi() | {"message": []}).items
    assert isinstance(item, Malformed)
    assert "UAZAPI-SECRET" not in canonical_json(item.raw)


# --- Alertmanager -------------------------------------------------------------------------------------------------------


def test_each_alert_of_a_group_is_a_signal() -> None:
    signals = alertmanager.parse(p.ALERTMANAGER)
    assert signals is not None
    redis, disk = signals
    assert (redis.trigger, redis.severity, redis.dedup_key, redis.resolved) == (
        "RedisDown",
        "critical",
        "alertmanager:a1b2c3",
        False,
    )
    assert (redis.tenant_id, redis.summary) == ("aurora", "Redis parou de responder")
    assert (disk.severity, disk.resolved) == ("warning", True)
    assert alertmanager.parse({"status": "firing"}) is None
    assert alertmanager.parse([]) is None


# --- signatures, secrets, bodies ----------------------------------------------------------------------------------------


def test_a_signature_covers_the_raw_bytes() -> None:
    body = b'{"a": 1}'
    good = p.sign("s", body)
    assert signature_is_valid("s", body, good)
    assert not signature_is_valid("s", b'{"a":1}', good)
    assert not signature_is_valid("other", body, good)
    for header in (None, "", "sha256=", good[7:], "sha1=" + good[7:], good[:-1], "sha256=é"):
        assert not signature_is_valid("s", body, header)
    assert not signature_is_valid(None, body, p.sign("", body))
    assert not signature_is_valid("", body, p.sign("", body))


def test_a_secret_must_be_configured_and_presented() -> None:
    assert secret_is_valid("s", None, "s")
    assert not secret_is_valid("s", None, "", "x")
    assert not secret_is_valid(None, "s")
    assert not secret_is_valid("", "")


def test_secrets_inside_bodies_are_redacted_and_the_rest_stays() -> None:
    raw = {
        "apikey": "1",
        "data": [{"accessToken": "2", "text": "meu token não veio", "url": "https://x/?token=abc&y=1"}],
        "jwt": None,
    }
    assert redact_secrets(raw) == {
        "apikey": "***",
        "data": [{"accessToken": "***", "text": "meu token não veio", "url": "https://x/?token=***&y=1"}],
        "jwt": None,
    }


def test_a_decoded_body_can_be_stored_anywhere() -> None:
    assert decode(b'{"a":"x\\u0000y","b":"\\ud800","c":1e999,"d":99999999999999999999999}') == {
        "a": "xy",
        "b": "?",
        "c": None,
        "d": "99999999999999999999999",
    }
    for broken in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        with pytest.raises(NotJson):
            decode(broken)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
KNOWN_KEYS = st.sampled_from(
    "object entry changes field value metadata messages statuses id from type text timestamp event data key remoteJid message "
    "EventType MessageIDs Type status alerts labels interactive button_reply context chat".split()
)
shaped = st.recursive(
    json_values
    | st.sampled_from(["whatsapp_business_account", "messages", "messages.upsert", "messages_update", "text", "firing"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KNOWN_KEYS, inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=300)
@given(shaped)
def test_no_body_makes_a_parser_fail_and_everything_found_can_be_stored(document: Any) -> None:
    body = clean(document)
    found: list[Message | Malformed] = []
    found += cloud(body, None).items + evo(body).items + uaz(body).items
    found += cloud(p.cloud(p.cloud_change([body], [body]), p.cloud_change(errors=body))).items
    found += cloud(p.cloud(p.cloud_change([p.cloud_message(type="interactive", interactive=body)]))).items
    found += evo(p.evolution(p.evolution_message() | {"message": body, "messageTimestamp": body})).items
    found += uaz(p.uazapi(body if isinstance(body, dict) else {"content": body})).items
    alertmanager.parse(body)
    alertmanager.parse(p.ALERTMANAGER | {"alerts": [body]})
    for item in found:
        kept = item.raw if isinstance(item, Malformed) else item.payload
        canonical_json(kept).encode("utf-8")
        assert "\\u0000" not in canonical_json(kept)
