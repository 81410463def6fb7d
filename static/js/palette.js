/* The palette (Ctrl+K): pages of the navigation and contacts, by name. A native dialog with a combobox in it. */
"use strict";
(() => {
  const dialog = document.getElementById("palette"), field = document.getElementById("palette_text"), list = document.getElementById("palette_list");
  const on = document.querySelector("meta[name=kora-keys]").dataset.on === "yes", { words } = window.kora;
  const flat = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
  const pages = [...document.querySelectorAll("#menu_more ul a")].map((a) => ({ name: a.textContent.trim(), clinic: "", url: a.getAttribute("href") }));
  let shown = [], at = 0, asked = 0, timer = 0;

  const choose = (place) => {
    at = Math.max(0, Math.min(shown.length - 1, place));
    [...list.children].forEach((option, n) => option.setAttribute("aria-selected", String(n === at)));
    const option = list.children[at];
    field.setAttribute("aria-activedescendant", option?.id ?? "");
    option?.scrollIntoView({ block: "nearest" });
  };
  const show = (found) => {
    shown = found;
    list.replaceChildren(...found.map(({ name, clinic, url, kind }, n) => {
      const option = document.createElement("li"), note = document.createElement("span");
      option.id = "palette_" + n;
      option.setAttribute("role", "option");
      option.append(name, note);
      note.className = "soft";
      note.textContent = clinic || kind || "";
      option.addEventListener("click", () => location.assign(url));
      return option;
    }));
    choose(0);
  };
  const matching = (text) => pages.filter((page) => flat(page.name).includes(flat(text)));
  const search = async (text, number) => {
    const found = matching(text);
    const answer = await fetch("/find?" + new URLSearchParams({ q: text.trim() }));
    if (number !== asked || !answer.ok) return;
    show([...found, ...(await answer.json()).map((contact) => ({ ...contact, kind: words.contact }))]);
  };
  const open = () => {
    if (dialog.open) return;
    field.value = "";
    show(pages);
    dialog.showModal();
  };
  // what is shown fits what is typed at once, so that Enter never goes to what was meant before; contacts follow
  field.addEventListener("input", () => {
    clearTimeout(timer);
    show(matching(field.value));
    asked++;
    if (field.value.trim()) timer = setTimeout(search, 120, field.value, asked);
  });
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); choose(at + step); }
    else if (event.key === "Enter" && shown[at]) { event.preventDefault(); location.assign(shown[at].url); }
  });
  for (const button of document.querySelectorAll("[data-palette]")) {
    button.addEventListener("click", () => { button.closest("[popover]")?.hidePopover(); open(); });
  }
  document.addEventListener("keydown", (event) => {
    if (!on || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.key.toLowerCase() !== "k") return;
    event.preventDefault();
    open();
  });
})();
