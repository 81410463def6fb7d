"""`kora doctor` about channels: would a critical alert reach anybody?"""

from app.cli import _channels_finding
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
