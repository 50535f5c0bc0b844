"use strict";
(() => {
  const bar = document.getElementById("filter");
  const text = document.getElementById("filter-text");
  const shown = document.getElementById("filter-shown");
  const boxes = [...bar.querySelectorAll("input[type=checkbox]")];
  const items = [...document.querySelectorAll("[data-name]")];
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const on = new Set(boxes.filter((b) => b.checked).map((b) => b.value));
    let n = 0;
    for (const e of items) {
      const name = e.dataset.name.toLowerCase();
      const ok = on.has(e.dataset.outcome) && words.every((w) => name.includes(w));
      e.hidden = !ok;
      if (ok && e.tagName === "DETAILS") n++;
    }
    shown.textContent = n + " shown";
  };
  const open = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const e = id && document.getElementById(id);
    if (e && e.tagName === "DETAILS") {
      e.hidden = false;
      e.open = true;
      e.scrollIntoView();
    }
  };
  text.addEventListener("input", apply);
  boxes.forEach((b) => b.addEventListener("change", apply));
  document.addEventListener("keydown", (k) => {
    if (k.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      k.preventDefault();
      text.focus();
    }
  });
  window.addEventListener("hashchange", open);
  bar.hidden = false;
  apply();
  open();
})();
