"""What an attempt to send comes to, against a provider that speaks real HTTP."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator

import httpx
import pytest

from app.channels.addresses import AllowList
from app.channels.apprise import AppriseChannel
from app.channels.evolution_sender import EvolutionChannel
from app.channels.factory import ChannelUnavailable, World, channel_for, default_spec
from app.channels.http import Limits, new_client
from app.channels.outbound import OutboundMessage, PhoneEntry, Template
from app.channels.simulator import SimulatorChannel
from app.channels.uazapi_sender import UazapiChannel
from app.channels.webhook import WebhookChannel
from app.channels.whatsapp_sender import WhatsAppCloudChannel
from app.domain.delivery import Outcome
from app.errors import StorageUnavailable
from tests.provider import Behaviour, accepts, answer, drip, hang, nonsense, provider, reset
from tests.services import free_port

QUICK = Limits(connect_s=10, read_s=1, total_s=1.5)
PATIENT = Limits(connect_s=2, read_s=5, total_s=5)
HELLO = OutboundMessage(key="k-1", text="Consulta marcada.", to="+5511987654321")
LOCAL = AllowList.of(["127.0.0.0/8"])


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with new_client() as made:
        yield made


def cloud(client: httpx.AsyncClient, url: str, limits: Limits = PATIENT) -> WhatsAppCloudChannel:
    return WhatsAppCloudChannel(
        client, phone_number_id="1055", access_token="secret-token", base_url=f"{url}/v23.0", allowed=LOCAL, limits=limits
    )


async def test_a_text_goes_to_the_cloud_api_with_our_own_reference(client: httpx.AsyncClient) -> None:
    async with provider(accepts("wamid.42")) as there:
        result = await cloud(client, there.url).send(HELLO)
    assert (result.outcome, result.provider_message_id) == (Outcome.SENT, "wamid.42")
    request = there.requests[0]
    assert request.path == "/v23.0/1055/messages"
    assert request.headers["authorization"] == "Bearer secret-token"
    assert request.json["to"] == "5511987654321"
    assert request.json["text"]["body"] == "Consulta marcada."
    assert request.json["biz_opaque_callback_data"] == "k-1"


ERROR = {"error": {"message": "x", "code": 131026}}


@pytest.mark.parametrize(
    ("behaviour", "limits", "outcome"),
    [
        (answer(500), PATIENT, Outcome.UNKNOWN),
        (answer(500, {"error": {"code": 131000}}), PATIENT, Outcome.FAILED),
        (answer(503), PATIENT, Outcome.FAILED),
        (answer(429, {"error": {"code": 130429}}), PATIENT, Outcome.FAILED),
        (answer(401, {"error": {"code": 190}}), PATIENT, Outcome.FAILED),
        (answer(400, ERROR), PATIENT, Outcome.REJECTED),
        (answer(302, location="http://127.0.0.1/elsewhere"), PATIENT, Outcome.REJECTED),
        (hang, QUICK, Outcome.UNKNOWN),
        (drip, QUICK, Outcome.UNKNOWN),
        (reset, PATIENT, Outcome.UNKNOWN),
        (nonsense, PATIENT, Outcome.UNKNOWN),
        (answer(200, {"messages": []}), PATIENT, Outcome.UNKNOWN),
        (answer(200, {"messages": "no"}), PATIENT, Outcome.UNKNOWN),
    ],
)
async def test_only_what_certainly_did_not_happen_counts_as_failed(
    client: httpx.AsyncClient, behaviour: Behaviour, limits: Limits, outcome: Outcome
) -> None:
    async with provider(behaviour) as there:
        result = await cloud(client, there.url, limits).send(HELLO)
    assert result.outcome is outcome
    assert len(there.requests) == 1
    assert "secret" not in (result.detail or "")


async def test_a_refused_connection_is_a_failure_because_nothing_was_sent(client: httpx.AsyncClient) -> None:
    result = await cloud(client, f"http://127.0.0.1:{free_port()}").send(HELLO)
    assert result.outcome is Outcome.FAILED


async def test_the_providers_wish_to_wait_is_reported(client: httpx.AsyncClient) -> None:
    async with provider(answer(429, {"error": {"code": 130429}}, retry_after="17")) as there:
        result = await cloud(client, there.url).send(HELLO)
    assert result.retry_after_s == 17.0


async def test_outside_the_24_hour_window_a_template_is_sent_instead(client: httpx.AsyncClient) -> None:
    template = Template(name="aviso", parameters=("amanhã",))
    with_template = OutboundMessage(key="k-2", text="Amanhã", to="+5511987654321", template=template)
    async with provider(accepts("wamid.t"), answer(400, {"error": {"code": 131047}})) as there:
        result = await cloud(client, there.url).send(with_template)
    assert (result.outcome, result.provider_message_id) == (Outcome.SENT, "wamid.t")
    sent = there.requests[1].json
    assert sent["template"] == {
        "name": "aviso",
        "language": {"code": "pt_BR"},
        "components": [{"type": "body", "parameters": [{"type": "text", "text": "amanhã"}]}],
    }


async def test_outside_the_window_without_a_template_nothing_is_called_when_that_is_known(client: httpx.AsyncClient) -> None:
    async with provider() as there:
        closed = OutboundMessage(key="k-3", text="Oi", to="+5511987654321", window_open=False)
        result = await cloud(client, there.url).send(closed)
        assert (result.outcome, result.detail, there.requests) == (Outcome.REJECTED, "template_required", [])
    async with provider(answer(400, {"error": {"code": 131047}})) as there:
        result = await cloud(client, there.url).send(HELLO)
        assert (result.outcome, result.detail) == (Outcome.REJECTED, "template_required")


async def test_evolution_and_uazapi_say_which_message_it_became(client: httpx.AsyncClient) -> None:
    async with provider(answer(201, {"key": {"id": "3EB0", "fromMe": True}, "status": "PENDING"})) as there:
        evolution = EvolutionChannel(client, base_url=there.url, instance="clinica 1", api_key="chave", allowed=LOCAL)
        result = await evolution.send(HELLO)
        assert (result.outcome, result.provider_message_id) == (Outcome.SENT, "3EB0")
        assert there.requests[0].path == "/message/sendText/clinica%201"
        assert there.requests[0].headers["apikey"] == "chave"
        assert there.requests[0].json == {"number": "5511987654321", "text": "Consulta marcada."}
    async with provider(answer(200, {"id": "5511:ABC", "messageid": "ABC"})) as there:
        uazapi = UazapiChannel(client, base_url=there.url, token="chave", allowed=LOCAL)
        result = await uazapi.send(HELLO)
        assert (result.outcome, result.provider_message_id) == (Outcome.SENT, "ABC")
        assert there.requests[0].headers["token"] == "chave"


async def test_a_webhook_carries_its_idempotency_key_and_the_name_of_its_host(client: httpx.AsyncClient) -> None:
    async with provider(answer(204)) as there:
        channel = WebhookChannel(client, f"http://localhost:{there.port}/hook?a=1", allowed=LOCAL_NAMES)
        result = await channel.send(OutboundMessage(key="k-9", text="", document={"n": 1}))
    assert result.outcome is Outcome.SENT
    request = there.requests[0]
    assert (request.path, request.headers["idempotency-key"], request.json) == ("/hook?a=1", "k-9", {"n": 1})
    assert request.headers["host"] == f"localhost:{there.port}"


LOCAL_NAMES = AllowList.of(["localhost"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "100.64.0.1",
    ],
)
async def test_a_webhook_to_a_private_address_is_refused_unless_allowed(client: httpx.AsyncClient, host: str) -> None:
    async with provider() as there:
        result = await WebhookChannel(client, f"http://{host}:{there.port}/", allowed=AllowList()).send(HELLO)
        assert (result.outcome, result.detail, there.requests) == (Outcome.REJECTED, "private_address", [])


@pytest.mark.parametrize("url", ["ftp://example.org/", "http://", "nonsense", "http://user:pass@127.0.0.1/"])
async def test_a_webhook_needs_a_plain_http_url(client: httpx.AsyncClient, url: str) -> None:
    result = await WebhookChannel(client, url, allowed=LOCAL).send(HELLO)
    assert (result.outcome, result.detail) == (Outcome.REJECTED, "bad_url")


async def test_a_webhook_follows_no_redirect(client: httpx.AsyncClient) -> None:
    async with provider(answer(200)) as secret, provider(answer(307, location=secret.url)) as there:
        result = await WebhookChannel(client, there.url, allowed=LOCAL).send(HELLO)
    assert (result.outcome, result.detail, secret.requests) == (Outcome.REJECTED, "http_307", [])


async def test_an_apprise_target_says_yes_no_or_nothing() -> None:
    async with provider(answer(200), answer(200), answer(500)) as there:
        channel = AppriseChannel(f"json://127.0.0.1:{there.port}/path", allowed=LOCAL)
        alert = OutboundMessage(key="k", text="O Redis parou", title="P0")
        assert (await channel.send(alert)).outcome is Outcome.SENT
        assert (await channel.send(alert)).outcome is Outcome.FAILED
    assert there.requests[0].json["message"] == "O Redis parou"
    assert there.requests[0].json["title"] == "P0"


async def test_an_apprise_target_in_a_private_network_is_refused_unless_allowed() -> None:
    async with provider() as there:
        result = await AppriseChannel(f"json://127.0.0.1:{there.port}/", allowed=AllowList()).send(HELLO)
        assert (result.outcome, result.detail, there.requests) == (Outcome.REJECTED, "private_address", [])


def test_the_key_of_an_apprise_channel_shows_no_secret() -> None:
    channel = AppriseChannel("json://user:geheim@example.org/token123", allowed=AllowList())
    assert "geheim" not in channel.key
    assert "token123" not in channel.key


async def test_the_simulated_phone_keeps_what_is_said() -> None:
    shown: list[PhoneEntry] = []

    async def write(entry: PhoneEntry) -> None:
        shown.append(entry)

    result = await SimulatorChannel(write).send(HELLO)
    assert result.outcome is Outcome.SENT
    assert [(e.target, e.body, e.idempotency_key) for e in shown] == [("+5511987654321", "Consulta marcada.", "k-1")]


async def test_the_simulated_phone_fails_honestly_without_its_database() -> None:
    async def write(_entry: PhoneEntry) -> None:
        raise StorageUnavailable("down")

    assert (await SimulatorChannel(write).send(HELLO)).outcome is Outcome.FAILED


# --- factory ------------------------------------------------------------------------------------------------------------

WHATSAPP = {"whatsapp": {"phone_number_id": "1", "access_token": "t", "app_secret": "s"}}


async def unwritten(_entry: PhoneEntry) -> None:
    await asyncio.sleep(0)


async def test_a_spec_becomes_its_channel_with_the_tenants_credentials(client: httpx.AsyncClient) -> None:
    world = World(client=client, phone=unwritten)
    settings = WHATSAPP | {
        "evolution": {"base_url": "http://e", "instance": "i", "api_key": "k"},
        "uazapi": {"base_url": "http://u", "token": "k"},
    }
    kinds = {
        "simulator:": SimulatorChannel,
        "simulator:superadmin": SimulatorChannel,
        "whatsapp:": WhatsAppCloudChannel,
        "whatsapp:+5511987654321": WhatsAppCloudChannel,
        "evolution:": EvolutionChannel,
        "uazapi:": UazapiChannel,
        "webhook:https://example.org/x": WebhookChannel,
        "json://example.org/x": AppriseChannel,
    }
    for spec, kind in kinds.items():
        assert isinstance(channel_for(spec, settings, world), kind), spec


@pytest.mark.parametrize("spec", ["whatsapp:", "evolution:", "uazapi:", "", "nonsense", "zzz://x", "whatsapp:123"])
async def test_a_spec_without_credentials_or_sense_is_no_channel(client: httpx.AsyncClient, spec: str) -> None:
    with pytest.raises(ChannelUnavailable):
        channel_for(spec, {}, World(client=client, phone=unwritten))


def test_families_are_reached_through_the_configured_provider_else_the_simulated_phone() -> None:
    assert default_spec({}) == "simulator:"
    assert default_spec(WHATSAPP) == "whatsapp:"
    assert default_spec({"whatsapp": {"app_secret": "receiving only"}}) == "simulator:"
    assert default_spec(WHATSAPP | {"contacts_channel": "evolution:"}) == "evolution:"


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "::", "fe80::1", "fd00::1",
        "::ffff:10.0.0.1", "2002:a00:1::1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "64:ff9b:1::8.8.8.8", "::10.0.0.1", "224.0.0.1",
        "2001:0:a00:1::1",
    ],
)  # fmt: skip
def test_no_spelling_of_a_private_address_is_public(address: str) -> None:
    assert not AllowList().permits("host.example", ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"])
def test_a_public_address_is_one_in_every_spelling(address: str) -> None:
    assert AllowList().permits("host.example", ipaddress.ip_address(address))


def test_a_network_that_is_allowed_is_so_through_every_prefix() -> None:
    allowed = AllowList.of(["10.0.0.0/8"])
    assert allowed.permits("h", ipaddress.ip_address("64:ff9b::a00:1"))
    assert not allowed.permits("h", ipaddress.ip_address("64:ff9b::c0a8:1"))


@pytest.mark.parametrize("provider_name", ["whatsapp", "evolution", "uazapi"])
async def test_a_clinic_cannot_point_a_provider_at_a_private_address(provider_name: str) -> None:
    async with provider(accepts("id-1")) as there, new_client() as client:
        section = {
            "phone_number_id": "1",
            "access_token": "t",
            "instance": "i",
            "api_key": "k",
            "token": "t",
            "base_url": there.url,
        }
        channel = channel_for(f"{provider_name}:", {provider_name: section}, World(client=client, phone=unwritten))
        result = await channel.send(HELLO)
        assert (result.outcome, result.detail) == (Outcome.REJECTED, "private_address")
        assert there.requests == []
