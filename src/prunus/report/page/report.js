"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Without this script every panel and level is shown; with it, a person picks.
  all(".choose").forEach((bar) => { bar.hidden = false; });

  all("#level-toggles input").forEach((box) => {
    box.addEventListener("change", () => {
      all("#curves svg .lv-" + box.value).forEach((mark) => { mark.style.display = box.checked ? "" : "none"; });
      all("#chart-tradeoff-levels .panel").forEach((panel) => {
        if (panel.dataset.key === box.value) panel.hidden = !box.checked;
      });
    });
  });

  all(".choose[data-target]").forEach((bar) => {
    const show = (key) => {
      all("button", bar).forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.key === key)));
      all(".panel", document.getElementById(bar.dataset.target)).forEach((panel) => {
        panel.hidden = panel.dataset.key !== key;
      });
    };
    all("button", bar).forEach((one) => one.addEventListener("click", () => show(one.dataset.key)));
    const first = bar.querySelector('[aria-pressed="true"]');
    if (first) show(first.dataset.key);
  });

  all("#runs thead th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && column < 2);
      all("#runs thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const body = document.querySelector("#runs tbody");
      const key = (row) => {
        const cell = row.children[column];
        return column === 0 ? cell.textContent : cell.dataset.value === "" ? null : Number(cell.dataset.value);
      };
      const order = (a, b) => {
        const [left, right] = [key(a), key(b)];
        // A number that was not measured goes last, whichever way the column is sorted.
        if (left === null || right === null) return (left === null) - (right === null);
        const sign = column === 0 ? left.localeCompare(right) : left - right;
        return rising ? sign : -sign;
      };
      body.append(...[...body.children].sort(order));
    });
  });
})();
