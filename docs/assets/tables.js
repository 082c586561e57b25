/* Tables inside <div class="sortable">: a click on a heading sorts the rows, a second one turns the order. */
(function () {
  "use strict";

  /* The number that a cell begins with ("0.914 (0.834 to 0.960)", "2,613", "95 %"), or null where it is no number. */
  function number(text) {
    const found = /^[+-]?\d[\d,]*(\.\d+)?([eE][+-]?\d+)?/.exec(text.replace(/^about /, "").replace(/^−/, "-"));
    return found ? parseFloat(found[0].replace(/,/g, "")) : null;
  }

  function compare(a, b, down) {
    const first = number(a), second = number(b);
    // What is not known stays at the end, whichever way the table is sorted.
    if (a === "" || a === "not known" || b === "" || b === "not known") {
      return Number(a === "" || a === "not known") - Number(b === "" || b === "not known");
    }
    const order = first !== null && second !== null ? first - second : a.localeCompare(b, "en", { numeric: true });
    return down ? -order : order;
  }

  function sort(table, heading, column) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    rows.sort((a, b) => compare(a.cells[column].textContent.trim(), b.cells[column].textContent.trim(), down));
    rows.forEach((row) => body.appendChild(row));
  }

  function prepare(table) {
    table.querySelectorAll("thead th").forEach(function (heading, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      while (heading.firstChild) button.appendChild(heading.firstChild);
      if (!button.textContent.trim()) button.textContent = "Name";
      heading.appendChild(button);
      button.addEventListener("click", () => sort(table, heading, column));
    });
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll(".sortable table").forEach(prepare);
  });
})();
