/* The server's time in the browser, and every relative time on the page.

   The machine's own clock is never used: time goes on from what the server said last, by the monotonic clock, at the
   server's pace (`scale` is 1 outside training). A countdown that reaches its end says so and changes nothing. */
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
  const left = (at) => {
    const ms = at - now();
    if (ms > 0) return fill(words.left, { span: span(ms) });
    return ms > -1500 ? words.due_now : fill(words.overdue, { span: span(-ms) });
  };
  const paint = (root) => {
    for (const element of root.querySelectorAll("time[data-ago], time[data-left]")) {
      const at = Date.parse(element.dateTime);
      let text;
      if (element.dataset.left !== undefined) text = left(at);
      else text = element.dataset.ago === "span" ? span(now() - at) : fill(words.ago, { span: span(now() - at) });
      if (element.textContent !== text) element.textContent = text;
    }
  };
  const face = new Intl.DateTimeFormat(document.documentElement.lang, { timeZone: zone, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  setInterval(() => paint(document), 1000);
  window.kora = Object.assign(window.kora || {}, { words, fill, clock: { now, set, paint, face: () => face.format(now()) } });
})();
