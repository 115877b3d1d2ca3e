// Tables of which the page holds all rows: sorted by a click on a heading, searched, and shown a page at a time.
// Every text goes into the page as text, never as HTML.
const PAGE_ROWS = 25; // rows at a time, as many as the template writes
const ORDER = new Intl.Collator("en", {numeric: true});

/** A new element with text in it. */
function element(name, text = "", more = {}) {
  const created = Object.assign(document.createElement(name), more);
  created.textContent = text;
  return created;
}

/** A value as the report writes it. */
const written = (value) =>
  value === null ? "undefined" : typeof value === "number" ? String(Number(value.toPrecision(6))) : value;

/** Which of two values stands first; what is undefined stands last either way. */
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "number" && typeof b === "number" ? a - b : ORDER.compare(a, b));
}

function list(box) {
  const {rows, command, links} = JSON.parse(box.querySelector("script").textContent);
  const body = box.querySelector("tbody"), headings = [...box.querySelectorAll("th")];
  const [search, count, position] = ["input", "[role=status]", ".position"].map((what) => box.querySelector(what));
  const kinds = headings.map((heading) => heading.className);
  let found = rows, first = 0, sorted = null, texts = null;

  function cells(row) {
    const line = element("tr");
    row.forEach((value, column) => line.append(element("td", written(value), {className: kinds[column]})));
    const last = element("td", "", {className: "command"}), address = links[row[0]];
    if (address) last.append(element("a", "explore", {href: address}));
    else if (command) {
      const code = element("code", `${command} ${row[0]}`);
      const copy = element("button", "Copy", {type: "button", ariaLabel: `Copy the command for ${row[0]}`});
      copy.addEventListener("click", async () => {
        const done = await copied(code.textContent);
        getSelection().selectAllChildren(code);
        count.textContent = `${done ? "Copied" : "Not copied, press Ctrl-C"}: ${code.textContent}`;
      });
      last.append(code, copy);
    }
    if (address || command) line.append(last);
    return line;
  }

  function show() {
    first = Math.max(0, Math.min(first, found.length - 1));
    first -= first % PAGE_ROWS;
    body.replaceChildren(...found.slice(first, first + PAGE_ROWS).map(cells));
    count.textContent = `${found.length} of ${rows.length} rows`;
    position.textContent = `page ${first / PAGE_ROWS + 1} of ${Math.max(1, Math.ceil(found.length / PAGE_ROWS))}`;
  }

  function select() {
    const wanted = search.value.trim().toLowerCase();
    texts ||= new Map(rows.map((row) => [row, row.filter((value) => typeof value === "string").join("\n").toLowerCase()]));
    found = wanted ? rows.filter((row) => texts.get(row).includes(wanted)) : [...rows];
    if (sorted) found.sort((a, b) => compare(a[sorted.column], b[sorted.column], sorted.direction));
    first = 0;
    show();
  }

  headings.slice(0, rows[0].length).forEach((heading, column) => {
    const button = element("button", heading.textContent, {type: "button"});
    button.addEventListener("click", () => {
      const again = sorted && sorted.column === column;
      sorted = {column, direction: again ? -sorted.direction : 1};
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sorted.direction > 0 ? "ascending" : "descending");
      select();
    });
    heading.replaceChildren(button);
  });
  search.addEventListener("input", select);
  const steps = {first: () => 0, back: () => first - PAGE_ROWS, on: () => first + PAGE_ROWS, last: () => found.length - 1};
  for (const [name, step] of Object.entries(steps)) {
    box.querySelector(`[name=${name}]`).addEventListener("click", () => {
      first = step();
      show();
    });
  }
  for (const bar of box.querySelectorAll(".bar")) bar.hidden = false;
  show();
}

document.querySelectorAll(".paged").forEach(list);
