/* Live regions: parts of the page with rows in them, which fetch their own address again when something changed.

   A region is fetched at most once in `data-every` seconds, under the viewer's own permissions. While a person is in it
   (focus, selection, open menu, or everything paused with `p`) it is held: what came is counted, rows that are gone are
   struck through, and it catches up at once when it is released. */
"use strict";
(() => {
  const { words, fill, clock } = window.kora;
  const status = new WeakMap(), RETRY_MAX_MS = 15000, SAY_EVERY_MS = 20000;
  let paused = false;

  const of = (region) => {
    if (!status.has(region)) status.set(region, { due: 0, timer: 0, busy: false, again: false, failed: false, tries: 0, owed: false, news: new Set(), said: -Infinity });
    return status.get(region);
  };
  const say = (text) => { document.getElementById("say").textContent = text; };
  const shout = (text) => { document.getElementById("shout").textContent = text; };

  /* --- held? ------------------------------------------------------------------------------------------------------- */
  const held = (region) => {
    if (paused) return true;
    const active = document.activeElement;
    if (active && active !== document.body && region !== active && region.contains(active) && !active.closest("[data-held]")) return true;
    const selection = document.getSelection();
    if (selection && !selection.isCollapsed && selection.rangeCount && region.contains(selection.getRangeAt(0).commonAncestorContainer)) return true;
    return region.querySelector(":popover-open, dialog[open]") !== null;
  };
  const show = (region) => {
    const bar = region.querySelector("[data-held]"), state = of(region), n = state.news.size;
    if (!bar) return;
    bar.hidden = !(state.owed && n);
    if (n) bar.querySelector("[data-held-text]").textContent = n === 1 ? words.paused_one : fill(words.paused_many, { n });
  };
  /* what differs between what is shown and what came: rows by their id, and the rest of the region as one more */
  const MOVING = "time, svg, select, textarea, [data-held], [data-gone-by]";
  const plain = (element, without) => {
    const copy = element.cloneNode(true);
    for (const part of copy.querySelectorAll(without)) part.remove();
    return copy.textContent.replace(/\s+/g, " ").trim();
  };
  const rowText = (row) => plain(row, MOVING + ", details");
  const restText = (root) => plain(root, MOVING + ", [data-row]");
  const compare = (region, html) => {
    const fresh = new DOMParser().parseFromString(html.trimStart().startsWith("<tr") ? `<table>${html}</table>` : html, "text/html");
    const news = new Set(), shown = new Map([...region.querySelectorAll("[data-row]")].map((row) => [row.id, row]));
    for (const row of fresh.querySelectorAll("[data-row]")) {
      const known = shown.get(row.id);
      if (!known || rowText(known) !== rowText(row)) news.add(row.id);
      shown.delete(row.id);
    }
    for (const id of shown.keys()) news.add(id);
    const gone = [...shown.values()];
    if (!news.size && restText(region) !== restText(fresh.body)) news.add(region.id);
    return { news, gone };
  };
  /* rows that left a held list stay, struck through, with who settled them where that is known */
  const strike = async (rows) => {
    const left = rows.filter((row) => !row.classList.contains("gone"));
    if (!left.length) return;
    for (const row of left) { row.classList.add("gone"); mark(row, words.gone); }
    const answer = await fetch("/left?" + new URLSearchParams(left.slice(0, 50).map((row) => ["row", row.id])));
    if (!answer.ok) return; // the plain word stays
    for (const [id, said] of Object.entries(await answer.json())) { const row = document.getElementById(id); if (row?.classList.contains("gone")) mark(row, said); }
  };
  const mark = (row, said) => {
    let note = row.querySelector("[data-gone-by]");
    if (!note) {
      note = Object.assign(document.createElement("span"), { className: "gone-by" });
      note.dataset.goneBy = "";
      (row.querySelector(".row-link")?.parentElement ?? row.lastElementChild ?? row).append(" ", note);
    }
    note.textContent = said;
  };

  /* --- fetching ---------------------------------------------------------------------------------------------------- */
  const fetchRegion = async (region) => {
    const state = of(region);
    state.timer = 0;
    if (!region.isConnected) return;
    if (state.busy) { state.again = true; return; }
    state.busy = true;
    state.due = performance.now() + Number(region.dataset.every || 1) * 1000;
    region.setAttribute("aria-busy", "true");
    try {
      const before = spokenIn(region);
      await htmx.ajax("GET", location.pathname + location.search, { source: region, target: region, swap: "morph:innerHTML" });
      announce(region, before);
    } catch (error) {
      state.failed = true; // the connection is away or the answer never came
    } finally {
      state.busy = false;
      region.removeAttribute("aria-busy");
      if (state.failed) {
        // what was asked for is still owed: the stream has told of it once and will not tell again
        state.failed = state.again = false;
        state.due = performance.now() + Math.min(RETRY_MAX_MS, 1000 * 2 ** state.tries++) * (0.7 + Math.random() * 0.6);
        refresh(region);
      } else {
        state.tries = 0;
        if (state.again) { state.again = false; refresh(region); }
      }
    }
  };
  const refresh = (region, soon = false) => {
    const state = of(region);
    if (state.timer) { if (!soon) return; clearTimeout(state.timer); }
    state.timer = setTimeout(fetchRegion, soon ? 0 : Math.max(0, state.due - performance.now()), region);
  };
  const all = () => document.querySelectorAll("[data-region]");
  const release = () => {
    for (const region of all()) {
      const state = of(region);
      if (state.owed && !held(region)) { state.owed = false; state.news.clear(); show(region); refresh(region, true); }
    }
  };
  document.addEventListener("htmx:beforeSwap", (event) => {
    const region = event.detail.target;
    if (!region.matches?.("[data-region]") || event.detail.xhr.status !== 200) return;
    const state = of(region), byHand = event.detail.requestConfig.elt !== region;
    if (byHand) return;
    const { news, gone } = compare(region, event.detail.serverResponse);
    if (held(region)) {
      event.detail.shouldSwap = false;
      state.owed = true;
      state.news = news;
      strike(gone);
      show(region);
      return;
    }
    // panels of numbers that always move are looked at, not listened to
    const rows = [...news].filter((id) => id !== region.id).length;
    tell(region, rows || (region.dataset.every < 2 ? news.size : 0));
  });
  document.addEventListener("htmx:afterSwap", (event) => { clock.paint(event.detail.target); });
  document.addEventListener("htmx:responseError", (event) => {
    const { xhr, target } = event.detail;
    if (xhr.status === 401) location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
    if ((xhr.status >= 500 || xhr.status === 429) && target.matches?.("[data-region], [data-state]")) of(target).failed = true;
  });
  /* filters: empty fields do not belong into the address */
  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.elt.tagName !== "FORM") return;
    for (const [name, value] of [...event.detail.formData.entries()]) if (value === "") event.detail.formData.delete(name);
  });
  /* a view is kept as the address stands now, not as it was loaded */
  document.addEventListener("submit", (event) => {
    const field = event.target.querySelector("[data-filter-here]");
    if (field) field.value = location.search.slice(1);
  });
  document.addEventListener("focusout", () => setTimeout(release, 0));
  document.addEventListener("selectionchange", () => { if (document.getSelection().isCollapsed) release(); });
  document.addEventListener("toggle", () => setTimeout(release, 0), true);
  document.addEventListener("close", () => setTimeout(release, 0), true);
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-held-go]");
    if (!button) return;
    const region = button.closest("[data-region]"), state = of(region);
    if (paused) setPaused(false);
    if (region.contains(document.activeElement)) document.activeElement.blur();
    document.getSelection().removeAllRanges();
    state.owed = false; state.news.clear(); show(region); refresh(region, true);
  });

  /* --- announcing: one polite sentence per region in 20 s ------------------------------------------------------------ */
  const turn = (state) => {
    if (performance.now() - state.said < SAY_EVERY_MS) return false;
    state.said = performance.now();
    return true;
  };
  const tell = (region, n) => {
    const state = of(region);
    if (!n || document.hidden || !turn(state)) return;
    const name = region.dataset.region;
    say(n === 1 ? fill(words.changed_one, { region: name }) : fill(words.changed_many, { region: name, n }));
  };

  /* --- what the stream tells ----------------------------------------------------------------------------------------- */
  /* a region about one contact need not look again because of another; no refs = anything may have changed */
  const concerns = (element, change) => change.topic !== "lane" || !element.dataset.ref || !change.refs.length || change.refs.includes(element.dataset.ref);
  /* the banner: safe mode that begins or ends is said loudly and once, everything else politely and seldom */
  const spokenIn = (element) => {
    const banner = element.querySelector("[data-said]");
    return { kind: banner?.dataset.kind ?? "none", said: banner?.dataset.said ?? "" };
  };
  const announce = (element, before) => {
    const after = spokenIn(element);
    if (after.kind === before.kind && after.said === before.said) return;
    if (after.kind !== before.kind && (after.kind === "safe_mode" || before.kind === "safe_mode")) {
      shout(after.kind === "safe_mode" ? after.said : `${words.safe_off} ${after.said}`.trim());
      of(element).said = performance.now();
    } else if (after.said && turn(of(element))) say(after.said);
  };
  const nudge = (changes) => {
    for (const element of document.querySelectorAll("[data-region], [data-state]")) {
      const topics = element.dataset.topics.split(" ");
      if (!changes.some((change) => topics.includes(change.topic) && concerns(element, change))) continue;
      // fragments of the stream's own scope arrive by themselves
      if (element.matches("[data-region]") || element.dataset.foreign) refresh(element);
    }
  };
  const state = ({ scope, fragments }) => {
    for (const [id, html] of Object.entries(fragments)) {
      const element = document.getElementById(id);
      if (!element) continue;
      if (element.dataset.scope !== scope) { element.dataset.foreign = "yes"; refresh(element); continue; }
      const before = spokenIn(element);
      Idiomorph.morph(element, html, { morphStyle: "innerHTML" });
      clock.paint(element);
      announce(element, before);
    }
  };
  const everything = () => { for (const element of document.querySelectorAll("[data-region], [data-state]")) refresh(element, true); };
  const setPaused = (value) => {
    paused = value;
    document.documentElement.toggleAttribute("data-paused", paused);
    say(paused ? words.paused_all : words.resumed);
    if (!paused) release();
  };
  window.kora = Object.assign(window.kora, { regions: { nudge, state, everything, refresh, togglePause: () => setPaused(!paused) }, say, shout });
})();
