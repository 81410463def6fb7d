"""`kora doctor` about channels: would a critical alert reach anybody?"""

from app.cli import _channels_finding, _heartbeat_finding, _template_findings
from app.store.database import Database
from app.store.settings import save
from tests.builders import NOON
from tests.web.conftest import make_settings


async def test_production_without_targets_for_critical_alerts_must_be_fixed(sqlite_db: Database) -> None:
    laptop = make_settings(sqlite_db.url)
    production = make_settings(sqlite_db.url, env="production")
    assert (await _channels_finding(laptop, sqlite_db))[0]
    fine, sentence = await _channels_finding(production, sqlite_db)
    assert not fine
    assert "ops, superadmin_whatsapp, superadmin_sms" in sentence
    for missing in ("superadmin_whatsapp", "superadmin_sms", None):
        assert (await _channels_finding(production, sqlite_db))[0] is False
        names = ["ops", "superadmin_whatsapp", "superadmin_sms"]
        given = dict.fromkeys(names[: names.index(missing) if missing else 3], "json://alerts.example.com")
        await sqlite_db.write(save, "global", {"channels": given}, actor="user:ana", now=NOON)
    assert await _channels_finding(production, sqlite_db) == (True, "critical alerts have targets on every channel of their route")


async def test_whatsapp_without_a_template_and_a_missing_heartbeat_are_warnings(sqlite_db: Database) -> None:
    assert await _template_findings(sqlite_db) == []
    await sqlite_db.write(
        save, "global", {"channels": {"ops": "json://x", "superadmin_whatsapp": ["whatsapp:+5511987654321"]}}, actor="u", now=NOON
    )
    ((fine, sentence),) = await _template_findings(sqlite_db)
    assert fine
    assert "warning: no approved template for alerts on WhatsApp (superadmin_whatsapp)" in sentence
    await sqlite_db.write(save, "global", {"whatsapp": {"alert_template": "aviso"}}, actor="u", now=NOON)
    assert await _template_findings(sqlite_db) == []
    assert "warning: without KORA_HEARTBEAT_URL" in _heartbeat_finding(make_settings(sqlite_db.url))[1]
    assert "warning" not in _heartbeat_finding(make_settings(sqlite_db.url, heartbeat_url="https://x.example"))[1]
