/* The server's time in the browser, and every relative time on the page.

   The machine's own clock is never used: time goes on from what the server said last, by the monotonic clock, at the
   server's pace (`scale` is 1 outside training). A countdown that reaches its end says so, asks the server, and changes
   nothing itself: that it is overdue is what the server says (`data-over`). Countdowns with a name speak at 5, 2 and 1
   minute; the one to safe mode (`data-failsafe`, on every page) speaks loudly at its last minute. */
"use strict";
(() => {
  const meta = document.querySelector("meta[name=kora-live]");
  const words = JSON.parse(document.querySelector("meta[name=kora-words]").content);
  const zone = meta.dataset.zone;
  let scale = Number(meta.dataset.scale), base = Date.parse(meta.dataset.now), read = performance.now();

  const now = () => base + (performance.now() - read) * scale;
  const set = (iso, pace) => { base = Date.parse(iso); read = performance.now(); scale = pace; };
  const fill = (text, values) => text.replace(/%\((\w+)\)[sd]/g, (_, name) => values[name]);

  const span = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60);
    if (s < 60) return fill(words.second, { s });
    if (m < 60) return fill(words.minute, { m });
    if (h < 24) return m % 60 ? fill(words.hour_minute, { h, m: m % 60 }) : fill(words.hour, { h });
    return fill(words.day, { d: Math.floor(h / 24) });
  };
  const asked = new Set();
  const left = (element, at) => {
    const ms = at - now();
    if (ms > 0) return fill(words.left, { span: span(ms) });
    if (element.dataset.over !== undefined) return fill(words.overdue, { span: span(-ms) });
    const region = element.closest("[data-region], [data-state]"), key = region?.id + element.dateTime;
    if (region && !asked.has(key)) { asked.add(key); setTimeout(() => window.kora.regions.refresh(region), 500 + Math.random() * 1000); }
    return words.due_now;
  };
  const paint = (root) => {
    for (const element of root.querySelectorAll("time[data-ago], time[data-left]")) {
      const at = Date.parse(element.dateTime);
      let text;
      if (element.dataset.left !== undefined) text = left(element, at);
      else text = element.dataset.ago === "span" ? span(now() - at) : fill(words.ago, { span: span(now() - at) });
      if (element.textContent !== text) element.textContent = text;
    }
  };
  const face = new Intl.DateTimeFormat(document.documentElement.lang, { timeZone: zone, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

  /* --- countdowns that speak --------------------------------------------------------------------------------------------- */
  const MARKS = [1, 2, 5], reached = new Map();
  let begun = false;
  const speak = () => {
    for (const element of document.querySelectorAll("[data-speak], [data-failsafe]")) {
      const failsafe = element.dataset.failsafe !== undefined, at = failsafe ? element.dataset.failsafe : element.dateTime;
      const name = failsafe ? words.failsafe : element.dataset.speak, key = name + at, ms = Date.parse(at) - now();
      const mark = MARKS.find((minutes) => ms <= minutes * 60000) ?? Infinity, before = reached.get(key) ?? (begun ? Infinity : mark);
      reached.set(key, mark);
      if (ms <= 0 || mark >= before) continue;
      (failsafe && mark === 1 ? window.kora.shout : window.kora.say)(`${name}: ${fill(words.left, { span: span(ms) })}`);
    }
    begun = true;
  };
  setInterval(() => { paint(document); speak(); }, 1000);

  /* --- whose time it is, when this device lives in another one ------------------------------------------------------------- */
  const offset = (place) => new Intl.DateTimeFormat("en", { timeZone: place, timeZoneName: "longOffset" }).formatToParts(now()).find((part) => part.type === "timeZoneName").value;
  const long = new Intl.DateTimeFormat(document.documentElement.lang, { timeZone: zone, timeZoneName: "longGeneric" });
  const note = document.getElementById("zone_note");
  if (note && offset(zone) !== offset(undefined)) {
    const here = long.formatToParts(now()).find((part) => part.type === "timeZoneName").value;
    note.textContent = fill(words.zone, { zone: `${here} (${offset(zone)})`, own: offset(undefined) });
    note.hidden = false;
  }
  window.kora = Object.assign(window.kora || {}, { words, fill, clock: { now, set, paint, face: () => face.format(now()) } });
})();
