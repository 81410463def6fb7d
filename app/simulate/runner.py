"""One simulation run: families set up through the API, then items at a rate, then the report."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from app.clock import Clock, SystemClock
from app.ids import new_id
from app.simulate.api import Api, Webhooks
from app.simulate.families import Agenda, Family, Storyteller
from app.simulate.lines import Lines
from app.simulate.report import Journal, Report

IN_FLIGHT: Final = 200
SETUP_AT_ONCE: Final = 16
START_S: Final = 15.0
"""How long the server may stay silent at the start before the run is given up."""
FINISH_S: Final = 15.0
"""How long items on their way may take after the last one was started (a restarting server needs a moment)."""
WITHOUT_PERMISSION: Final = 0.15
NUMBERED: Final = 0.05


async def run(
    url: str,
    key: str,
    *,
    rate: float = 10.0,
    contacts: int = 100,
    seconds: float = 30.0,
    journal: Path | None = None,
    seed: int | None = None,
    hooks: Webhooks | None = None,
    tenant: str | None = None,
    clock: Clock | None = None,
    enough: asyncio.Event | None = None,
) -> Report:
    """Offer about `rate` items a second of `contacts` families for `seconds`, or until it is `enough`.

    A server that goes away costs errors and repetitions, never the run. `seed` repeats the same choices; `tenant` is needed
    with a global key only. Raises nothing for what the server answers: look at the report.
    """
    report, notes, stop = Report(), Journal(journal), asyncio.Event()
    dice = random.Random(seed)
    clock = clock or SystemClock()
    try:
        async with Lines(IN_FLIGHT) as lines:
            api = Api(lines, url, key, report, notes, stop=stop, tenant=tenant)
            giving_up = asyncio.get_running_loop().call_later(START_S, stop.set)
            await api.get("/contacts?limit=1")
            if stop.is_set():
                return report  # nobody answers at all
            giving_up.cancel()
            agenda, families = await _set_up(api, contacts, dice, clock)
            teller = Storyteller(api, agenda, dice, clock, new_id()[:8], hooks=hooks)
            started = time.perf_counter()
            await _offer(teller, families, dice, rate, seconds, stop, enough or asyncio.Event())
            report.elapsed_s = time.perf_counter() - started
    finally:
        notes.close()
    return report


async def _offer(
    teller: Storyteller,
    families: list[Family],
    dice: random.Random,
    rate: float,
    seconds: float,
    stop: asyncio.Event,
    enough: asyncio.Event,
) -> None:
    """Start steps at random moments of the wanted mean rate; a family takes one step at a time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    due = loop.time()
    running: set[asyncio.Task[None]] = set()
    offered = _Pace(rate)

    async def take(family: Family) -> None:
        try:
            items = await teller.step(family)
            offered.items += items  # only now: reading before waiting would lose what others added meanwhile
            offered.steps += 1
        finally:
            family.busy = False

    while (now := loop.time()) < end and not enough.is_set():
        if now < due:
            await asyncio.sleep(min(due, end) - now)
            continue
        due += dice.expovariate(offered.steps_per_s)
        family = next((f for f in (dice.choice(families) for _ in range(20)) if not f.busy), None)
        if family is None or len(running) >= IN_FLIGHT:
            await asyncio.sleep(0.005)  # everybody is waiting for an answer: the server is slower than the rate
            due = max(due, loop.time())
            continue
        family.busy = True
        task = asyncio.create_task(take(family))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=FINISH_S)
    stop.set()
    if running:
        await asyncio.gather(*running)


class _Pace:
    """Steps a second for a wanted number of items a second: steps offer one or two items each."""

    def __init__(self, rate: float) -> None:
        self.items = 14.0
        self.steps = 10.0
        self._rate = rate

    @property
    def steps_per_s(self) -> float:
        return self._rate * self.steps / self.items


async def _set_up(api: Api, count: int, dice: random.Random, clock: Clock) -> tuple[Agenda, list[Family]]:
    """Therapists, families and permissions; the same ids in every run, so that runs build on each other."""
    therapists = [f"sim-t-{n}" for n in range(max(3, count // 20))]
    midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    agenda = Agenda(therapists, midnight + timedelta(days=2 + dice.randrange(300)))
    families = [
        Family(
            contact_id=f"sim-c-{n}",
            patient_id=f"sim-p-{n}",
            phone=f"+55119{70_000_000 + n:08d}",
            name=f"Família {n}",
            permitted=(n * 7919 % 100) / 100 >= WITHOUT_PERMISSION,
            numbers_itself=(n * 104_729 % 100) / 100 < NUMBERED,
        )
        for n in range(count)
    ]
    await at_once([lambda t=t: api.put(f"/therapists/{t}", {"name": f"Terapeuta {t[6:]}"}) for t in therapists])  # type: ignore[misc]
    await at_once([lambda f=f: _introduce(api, f) for f in families])  # type: ignore[misc]
    return agenda, families


async def _introduce(api: Api, family: Family) -> None:
    await api.put(f"/contacts/{family.contact_id}", {"phone": family.phone, "name": family.name})
    await api.put(f"/patients/{family.patient_id}", {"name": f"Criança {family.patient_id[6:]}"})
    if family.permitted:
        await grant(api, family)


async def grant(api: Api, family: Family) -> None:
    """The permission that a reception registers after checking in person."""
    await api.put(
        f"/patients/{family.patient_id}/guardians/{family.contact_id}",
        {
            "is_primary": True,
            "can_schedule": True,
            "can_cancel": True,
            "verified_by": "recepcao",
            "verification_method": "in_person",
            "reason": "cadastro",
        },
    )


async def at_once(calls: list[Callable[[], Awaitable[object]]]) -> None:
    """Run the calls, a few at a time."""
    gate = asyncio.Semaphore(SETUP_AT_ONCE)

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        async with gate:
            await call()

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call))
