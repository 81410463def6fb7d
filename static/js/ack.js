/* The countdown of the ACK page, on the server's time. At zero it says so; the browser never changes the state itself. */
"use strict";
(() => {
  const clock = document.querySelector("time[data-countdown]");
  if (!clock) return;
  const end = Date.parse(clock.dateTime), base = Date.parse(clock.dataset.now), scale = Number(clock.dataset.scale);
  const read = performance.now();
  const tick = () => {
    const left = Math.max(0, Math.floor((end - base - (performance.now() - read) * scale) / 1000));
    const text = left === 0 ? clock.dataset.over : left < 60 ? `${left} s` : `${Math.floor(left / 60)} min ${left % 60} s`;
    if (clock.textContent !== text) clock.textContent = text;
    if (left > 0) setTimeout(tick, Math.max(50, 250 / scale));
  };
  tick();
})();
