/* How live regions are morphed: what a person has changed stays as it is.

   Configured here and not in attributes: a configuration in `hx-swap` would need eval, which the content policy forbids.
   Kept: typed text and caret, ticks, chosen options, open details, inner scroll, rows that are marked as gone until release. */
"use strict";
(() => {
  const dirty = (node) => {
    if (node instanceof HTMLInputElement) {
      return node.type === "checkbox" || node.type === "radio" ? node.checked !== node.defaultChecked : node.value !== node.defaultValue;
    }
    if (node instanceof HTMLTextAreaElement) return node.value !== node.defaultValue;
    if (node instanceof HTMLSelectElement) return [...node.options].some((option) => option.selected !== option.defaultSelected);
    return false;
  };
  // attributes that belong to the person or to our scripts, not to the server
  const ours = new Set(["open", "tabindex", "data-held-shown"]);
  Idiomorph.defaults.ignoreActiveValue = true;
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (node, fresh) => {
    if (!(node instanceof Element)) return true;
    if (dirty(node)) return false;
    if (node instanceof HTMLDialogElement && node.open) return false;
    if (node.matches("[data-held], [data-typed]")) return false;  // typed before an answer that refused it
    if (node instanceof HTMLDetailsElement && fresh instanceof Element) fresh.toggleAttribute("open", node.open);
    return true;
  };
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node, kind) => !(ours.has(name) && kind === "remove");
  // a refused form is answered by its page: the address is the page's own, for updates and for loading it again
  const here = document.querySelector("meta[name=kora-live]").dataset.here;
  if (here) history.replaceState(null, "", here);
  // what a refused form had in it is the person's, not the server's: no update takes it away
  for (const field of document.querySelectorAll("[data-kept]")) {
    if (field instanceof HTMLSelectElement) for (const option of field.options) { const chosen = option.selected; option.defaultSelected = false; option.selected = chosen; }
    else if (field.type === "checkbox") { field.defaultChecked = false; field.checked = true; }
    else { const typed = field.value; field.defaultValue = ""; field.value = typed; }
  }
  window.kora = Object.assign(window.kora || {}, { dirty });
})();
