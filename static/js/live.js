/* One stream per browser and person, shared by all tabs; four visible states; a cursor of our own.

   The tab that holds the lock keeps the EventSource and passes every message on. Each tab knows up to where its page is
   true (`cursor`); a message names the position before it, so a tab that missed something fetches everything again.
   States: live; stale after 10 s without a heartbeat; disconnected after 30 s; all clear by themselves. */
"use strict";
(() => {
  const { words, clock, regions, say, shout } = window.kora;
  const meta = document.querySelector("meta[name=kora-live]"), root = document.documentElement, title = document.title;
  const name = "kora-live-" + meta.dataset.person + "-" + root.lang;
  const STALE_MS = 10000, DOWN_MS = 30000, RETRY_MAX_MS = 15000;
  let cursor = Number(meta.content), beat = performance.now(), connected = false, net = "off", leading = false, source = null, tries = 0, ended = false;

  /* --- what comes in, from the stream or from the tab that leads ----------------------------------------------------- */
  const apply = (message) => {
    const { type, data, before, rev } = message;
    if (type === "end") { ended = true; beat = -Infinity; leave(); return; }
    beat = performance.now();
    connected = true;
    if (data?.now) clock.set(data.now, data.scale);
    if (type === "reset") regions.everything();
    else if (type === "nudge") { if (before > cursor) regions.everything(); else regions.nudge(data.changes); }
    else if (type === "state") regions.state(data);
    else if ((type === "hb" || type === "hello") && before > cursor) regions.everything();
    if (rev !== undefined) cursor = type === "reset" ? rev : Math.max(cursor, rev);
    paint();
  };
  const channel = new BroadcastChannel(name);
  channel.onmessage = ({ data }) => {
    if (data.type === "who") { if (leading && connected) send({ type: "hb", data: null, before: cursor, rev: cursor }); }
    else apply(data);
  };
  const send = (message) => { if (navigator.locks) channel.postMessage(message); };
  const pass = (message) => { apply(message); send(message); };

  /* --- the stream ----------------------------------------------------------------------------------------------------- */
  const open = () => {
    source = new EventSource("/stream?since=" + cursor);
    for (const type of ["hello", "reset", "nudge", "state", "hb"]) {
      source.addEventListener(type, (event) => {
        tries = 0;
        pass({ type, data: JSON.parse(event.data), before: cursor, rev: Number(event.lastEventId) });
      });
    }
    source.addEventListener("bye", (event) => {
      source.close();
      if (JSON.parse(event.data).reason === "session") pass({ type: "end" });
      else again(500);
    });
    source.onerror = () => { source.close(); if (tries % 3 === 2) ask(); again(); };
  };
  /* an EventSource does not say why it failed: when our session is over, the page's own address tells */
  const ask = async () => {
    try {
      const answer = await fetch(location.href, { headers: { "HX-Request": "true", "HX-Target": "queue_count" }, redirect: "manual" });
      if (answer.status === 401) { ended = true; leave(); }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // TypeError: the server is away, and the screen says so
    }
  };
  const again = (ms = Math.min(RETRY_MAX_MS, 500 * 2 ** tries++)) => { if (!ended) setTimeout(open, ms * (0.7 + Math.random() * 0.6)); };
  // signing out here goes on to the sign-in page by itself
  let leaving = false;
  document.addEventListener("submit", (event) => { leaving ||= event.target.matches("form[action='/logout']"); });
  const leave = () => leaving || location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
  const lead = () => { leading = true; open(); return new Promise(() => {}); };
  // plain http away from localhost has no locks: each tab then keeps a stream of its own and passes nothing on
  if (navigator.locks) { navigator.locks.request(name, lead); channel.postMessage({ type: "who" }); }
  else { channel.close(); lead(); }

  /* --- what people see ------------------------------------------------------------------------------------------------ */
  const word = document.querySelector("[data-live-word]"), time = document.querySelector("[data-live-time]"), off = document.getElementById("banner_off");
  const paint = () => {
    const age = performance.now() - beat;
    const next = ended ? "down" : age >= DOWN_MS ? "down" : age >= STALE_MS ? "stale" : connected ? "ok" : "off";
    time.textContent = next === "ok" ? "· " + clock.face() : "";
    if (next === net) return;
    if (next === "down") shout(words.off_said);
    else if (net === "down" && next === "ok") say(words.back_said);
    net = next;
    root.dataset.live = net;
    word.textContent = { ok: words.live, stale: words.stale, down: words.off, off: words.connecting }[net];
    off.hidden = net !== "down";
    document.title = net === "down" ? `(${words.off_title}) ${title}` : title;
  };
  setInterval(paint, 250);
  // a page from the back-forward cache or a machine that slept: what it shows is old
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  addEventListener("online", () => { if (leading && source?.readyState === EventSource.CLOSED) { tries = 0; } });
  paint();
  window.kora.live = { cursor: () => cursor, leading: () => leading };
})();
