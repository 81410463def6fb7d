/* Where the focus goes after an act: back to the row that it was about.

   A form answers with a new page. Whoever sent it with the keyboard finds the focus on the row again, on the one after it
   when the row has left the list, else at the beginning of the content. Whoever used a pointer keeps the page unheld. */
"use strict";
(() => {
  const KEY = "kora-focus";
  let byKeyboard = false;
  document.addEventListener("keydown", () => { byKeyboard = true; }, true);
  document.addEventListener("pointerdown", () => { byKeyboard = false; }, true);

  const rows = () => [...document.querySelectorAll("main [data-row]")];
  const about = (element) => element.closest("[data-row]")?.id ?? element.closest("[data-of]")?.dataset.of ?? element.closest("details[id], section[id]")?.id;
  const remember = (element) => {
    const id = byKeyboard && element.closest("main") ? about(element) : null;
    if (!id) return;
    const ids = rows().map((row) => row.id), place = ids.indexOf(id);
    sessionStorage.setItem(KEY, JSON.stringify([id, ...(place < 0 ? [] : [...ids.slice(place + 1), ...ids.slice(0, place).reverse()].slice(0, 20))]));
  };
  document.addEventListener("submit", (event) => remember(event.submitter ?? event.target));
  document.addEventListener("click", (event) => { const link = event.target.closest?.("main a.row-link"); if (link) remember(link); });

  const stored = sessionStorage.getItem(KEY);
  if (!stored) return;
  sessionStorage.removeItem(KEY);
  if (document.activeElement !== document.body || location.hash) return;
  const found = JSON.parse(stored).map((id) => document.getElementById(id)).find((element) => element);
  const target = found?.querySelector(".row-link, summary, a, button") ?? document.getElementById("main");
  target.focus();
})();
