// Sorting of tables, and the hint at tables that are wider than the page.

function sortValue(row, place) {
  const cell = row.cells[place];
  const text = (cell?.dataset.sort ?? cell?.textContent ?? "").trim();
  if (text === "" || text === "\u2013") return null; // a dash stands for no value
  // Names of several words and dates are texts, though they may begin with a number.
  const number = Number(text.replaceAll(",", "").replace("\u2212", "-"));
  return Number.isNaN(number) ? text : number;
}

function compareValues(a, b, sign) {
  // Rows without a value are last in either order.
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, heads, place) {
  const head = heads[place];
  const bodies = [...table.tBodies];
  const rows = bodies.map((body) => [...body.rows].filter((row) => row.matches(":not(.baseline, .published, .more)") && row.cells.length > place));
  const first = rows.flat().map((row) => sortValue(row, place)).find((value) => value !== null);
  // Large numbers and the beginning of the alphabet come first.
  const initial = typeof first === "number" ? "descending" : "ascending";
  const other = initial === "descending" ? "ascending" : "descending";
  const order = head.ariaSort === initial ? other : initial;
  heads.forEach((each) => { each.ariaSort = null; });
  head.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  rows.forEach((members, number) => {
    const marker = document.createComment("");
    if (members.length) members[0].before(marker);
    members.sort((a, b) => compareValues(sortValue(a, place), sortValue(b, place), sign));
    members.forEach((row) => marker.before(row));
    marker.remove();
  });
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortTable(table, heads, place));
    head.append(button);
  });
}

function watchWidth(box) {
  const cue = document.createElement("p");
  cue.className = "cue";
  cue.textContent = "Scroll the table sideways for more columns \u2192";
  cue.hidden = true;
  box.before(cue);
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    cue.hidden = hidden <= 1;
    box.classList.toggle("more-right", hidden - box.scrollLeft > 1);
  };
  box.addEventListener("scroll", update, { passive: true });
  const observer = new ResizeObserver(update);
  observer.observe(box);
  observer.observe(box.firstElementChild);
  update();
}

function enhanceTables(root) {
  root.querySelectorAll("table.sortable").forEach(makeSortable);
  root.querySelectorAll("div.wide").forEach(watchWidth);
}

