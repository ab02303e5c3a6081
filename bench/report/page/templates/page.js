// Plots, sorting and filtering. Nothing is fetched.
// What _packed of bench/report/page/render.py made.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function draw() {
  const { config, charts } = JSON.parse(await unpacked("specs"));
  if (Object.keys(charts).length > 0) new Function(await unpacked("library"))();
  for (const place of document.querySelectorAll("[data-chart]")) {
    await window.vegaEmbed(place, charts[place.dataset.chart], {
      config, actions: false, renderer: "svg", tooltip: { theme: "bench" },
    });
  }
  document.documentElement.dataset.drawn = "yes";
}

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
}

// Cells without a value come last, whichever way is up.
function inOrder(one, other, sign) {
  const kinds = [typeof one, typeof other];
  if (kinds[0] !== kinds[1]) return kinds[0] === "number" ? -1 : 1;
  return sign * (kinds[0] === "number" ? one - other : one.localeCompare(other, "en", { numeric: true }));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const isUp = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => inOrder(valueOf(a, column), valueOf(b, column), isUp ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

function makeFilterable(section) {
  const input = section.querySelector("input");
  const output = section.querySelector("output");
  const rows = [...section.querySelector("table").tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase()]));
  function filter() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => texts.get(row).includes(word));
    output.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} cells`;
  }
  input.addEventListener("input", filter);
  filter();
}

document.querySelectorAll("table").forEach(makeSortable);
document.querySelectorAll("section:has(.filter)").forEach(makeFilterable);
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
await draw();
