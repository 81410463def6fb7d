/* Shortcuts. Silent while a person types, with a modifier held, and when the person switched them off. */
"use strict";
(() => {
  const meta = document.querySelector("meta[name=kora-keys]");
  const go = JSON.parse(meta.content), on = meta.dataset.on === "yes", help = document.getElementById("help");
  let prefix = 0;

  const openHelp = () => { if (!help.open) help.showModal(); };
  for (const button of document.querySelectorAll("[data-help]")) {
    button.addEventListener("click", () => { button.closest("[popover]")?.hidePopover(); openHelp(); });
  }
  const typing = (target) => target.closest?.("input, textarea, select, [contenteditable]") !== null && target.type !== "checkbox";

  /* --- rows ----------------------------------------------------------------------------------------------------------- */
  const link = (row) => row.querySelector(".row-link") || row.querySelector("summary, a, button");
  const move = (step) => {
    const rows = [...document.querySelectorAll("main [data-row]")].filter((row) => link(row));
    if (!rows.length) return;
    const here = rows.findIndex((row) => row.contains(document.activeElement));
    const next = rows[here < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, here + step))];
    link(next).focus();
    next.scrollIntoView({ block: "nearest" });
  };

  /* the row that has the focus, when it is not the one that is open: open it first, so that people see what they act on */
  const elsewhere = () => {
    const row = document.activeElement.closest?.("main [data-row]"), target = row && row.querySelector("a.row-link");
    return target && target.getAttribute("aria-current") !== "true" ? target : null;
  };
  /* one alert: acknowledge it; none or several in sight: go to the first button, and let the person press it */
  const acknowledge = () => {
    const buttons = [...document.querySelectorAll("main [data-ack]")], other = elsewhere();
    if (other && document.querySelector("main .alert-list")) other.click();
    else if (buttons.length === 1) buttons[0].form.requestSubmit(buttons[0]);
    else buttons[0]?.focus();
  };
  const answer = () => {
    const other = elsewhere();
    if (other && document.querySelector("main [data-answers]")) other.click();
    else document.querySelector("main [data-answer]")?.focus();
  };

  const acts = {
    "/": () => { const field = document.getElementById("search"); (field.offsetParent ? field : document.querySelector("main input[type=search]"))?.focus(); },
    "?": openHelp,
    j: () => move(1),
    k: () => move(-1),
    a: acknowledge,
    r: answer,
    p: () => window.kora.regions.togglePause(),
  };
  document.addEventListener("keydown", (event) => {
    if (!on || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    if (performance.now() < prefix && go[event.key]) { prefix = 0; event.preventDefault(); location.assign(go[event.key]); return; }
    prefix = 0;
    if (event.key === "g") { prefix = performance.now() + 1500; return; }
    const act = acts[event.key];
    if (act) { event.preventDefault(); act(); }
  });
})();
