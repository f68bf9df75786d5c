const STEP = 50; // rows that are put into the page at a time
const LONG = { characters: 1500, lines: 20 }; // a longer text is folded
const controls = document.getElementById("controls");
const fields = ["search", "source", "split", "modality", "sort", "wrong"];
// All rows by their numbers: the first ones are in the page, the others in files of `data.files.rows` rows beside it.
const { index } = data;
const total = index.source.length;
const chunks = new Map(); // number of a file -> its rows
const KEPT_CHUNKS = 60;
const haystacks = new Map();
let [matching, shown, turnOf] = [[], 0, 0]; // places of rows; a later choice of the reader has a higher `turnOf`

const percent = (share) => (share === null ? null : `${(100 * share).toFixed(1)} %`);
const signed = (number) =>
  (number === null ? "not a number" : `${number < 0 ? "\u2212" : "+"}${Math.abs(number).toFixed(3)}`);

// The counts at the head of the page, and the rejected rows.

function showHead() {
  const { facts } = data;
  const parts = Object.entries(data.splits).map(([name, size]) => `${name} (${size.toLocaleString("en")})`);
  document.title = `${data.source}: rows`;
  document.getElementById("title").textContent = data.source;
  const chosen = facts.shown < facts.groups ? `${count(facts.shown, "row")}, evenly spread,` : "all rows";
  document.getElementById("about").textContent =
    `Shown: ${chosen} of ${parts.join(", ")}.` + (data.model ? ` Scores by ${data.model}.` : "");
  const lost = facts.rows - facts.groups;
  const entries = [
    ["rows", facts.rows.toLocaleString("en")],
    ["usable groups", facts.groups.toLocaleString("en")],
    ["lost", lost.toLocaleString("en")],
    ["not scored", facts.unscored ? facts.unscored.toLocaleString("en") : null],
    ["images shown", facts.images.toLocaleString("en")],
    ["pairs shown", facts.pairs.toLocaleString("en")],
    ["longer response preferred (characters)", percent(facts.longer_wins)],
    ["longer response scores higher", percent(facts.follows_length)],
    ["model agrees", percent(facts.accuracy)],
  ];
  document.getElementById("facts").append(...entries.filter(([, value]) => value !== null).map(([name, value]) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
  if (lost) showLost(facts.lost, lost);
}

function showLost(reasons, total) {
  const box = document.getElementById("lost");
  const listed = Object.entries(reasons);
  box.hidden = false;
  box.querySelector("summary").textContent =
    `${count(total, "row")} lost: ${listed.map(([reason, number]) => `${reason} ${number}`).join(", ")}`;
  for (const [reason, number] of listed) {
    const rows = data.lost.filter((row) => row.reason === reason);
    const more = number > rows.length ? `, ${rows.length} of them listed` : "";
    box.querySelector("div").append(
      element("h3", { textContent: `${reason}: ${number}${more}` }),
      element("ul", {}, ...rows.map((row) => element("li", {},
        element("b", { textContent: row.id }), ` (${row.split}) `, element("span", { textContent: row.detail })))));
  }
}

// Rows that are not in the page.

const chunkOf = (place) => (place < data.rows.length ? -1 : Math.floor((place - data.rows.length) / data.files.rows));

function rowAt(place) {
  const chunk = chunkOf(place);
  return chunk < 0 ? data.rows[place] : chunks.get(chunk)?.[(place - data.rows.length) % data.files.rows];
}

globalThis.addRows = (chunk, rows) => { chunks.set(chunk, rows); }; // what the files call

function load(chunk) {
  if (chunk < 0 || chunks.has(chunk)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const script = element("script", { src: `${data.files.folder}/rows-${chunk}.js` });
    const done = (settle) => { script.remove(); settle(); };
    script.addEventListener("load", () => done(resolve));
    script.addEventListener("error", () => done(() => reject(new Error(`The file ${decodeURIComponent(data.files.folder)}/rows-${chunk}.js is not beside this page.`))));
    document.head.append(script);
  });
}

async function loadRows(places) {
  for (const chunk of new Set(places.map(chunkOf))) await load(chunk);
}

function forget() {
  for (const chunk of chunks.keys()) {
    if (chunks.size <= KEPT_CHUNKS) return;
    chunks.delete(chunk);
  }
}

function haystack(place) {
  if (haystacks.has(place)) return haystacks.get(place);
  const row = rowAt(place);
  const words = [row.id, ...row.turns.flatMap((turn) => turn.parts.map((part) => part.text ?? "")),
    ...row.responses.map((response) => response.text)].join("\n").toLowerCase();
  if (chunkOf(place) < 0) haystacks.set(place, words); // those of the files would fill the memory
  return words;
}

// One row.

function text(content, query) {
  const box = element("div", { className: "text", dir: "auto" });
  const pieces = query ? content.text.split(new RegExp(`(${query.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")})`, "gi")) : [content.text];
  box.append(...pieces.map((piece, place) => (place % 2 ? element("mark", { textContent: piece }) : piece)));
  const note = cutNote(content.text, content.length);
  if (!isLong(content.text, LONG) || pieces.length > 1) return [box, note];
  return [box, foldButton(box, content.length), note];
}

function picture({ uri, width, height }, alt) {
  const image = element("img", { src: uri, alt, loading: "lazy", decoding: "async", className: Math.max(width, height) <= 128 ? "tiny" : "" });
  const button = element("button", { type: "button", className: "picture", title: "Enlarge" }, image);
  button.addEventListener("click", () => {
    const viewer = document.getElementById("viewer");
    Object.assign(viewer.querySelector("img"), { src: uri, alt, className: image.className });
    viewer.querySelector("p").textContent = `${alt}; ${width} \u00d7 ${height} pixels in the data`;
    viewer.showModal();
  });
  return button;
}

function contents(row, parts, query, numbers) {
  return parts.flatMap((part) => "image" in part
    // A picture in the page is a number in the list of all; one in a file describes itself.
    ? [picture(typeof part.image === "number" ? data.pictures[part.image] : part.image, `Image ${numbers.next().value} of ${row.images.length} of ${row.id}`)]
    : part.text.trim() || parts.length === 1 ? text(part, query) : []); // a line break between images is no text
}

function turn(row, { role, parts }, query, numbers) {
  return element("div", { className: "turn" }, element("div", { className: "label", textContent: role }),
    ...contents(row, parts, query, numbers));
}

function response(row, place, ranks, query, numbers) {
  const { rank, score, length, parts } = row.responses[place];
  const ties = row.pairs.filter((pair) => pair.tie && (pair.winner === place || pair.loser === place))
    .map((pair) => `[${pair.winner === place ? pair.loser : pair.winner}]`);
  const best = rank === 0 && ranks > 1;
  const meta = [
    element("b", { textContent: rank === null ? "not compared" : best ? "1 \u00b7 preferred" : String(rank + 1) }),
    element("code", { textContent: `[${place}]` }),
    ties.length ? element("span", { textContent: `tied with ${ties.join(", ")}` }) : null,
    row.scored ? element("b", { textContent: `score ${signed(score)}` }) : null,
    element("span", { textContent: count(length, "character") }),
  ];
  return element("li", { className: best ? "best" : "" },
    element("div", { className: "meta" }, ...meta),
    ...(parts ? contents(row, parts, query, numbers) : text(row.responses[place], query)));
}

function disagrees(row, pair) {
  return row.scored && !pair.tie && !(pair.model > 0);
}

function pairLine(row, pair) {
  const details = [`[${pair.winner}] ${pair.tie ? "as good as" : "better than"} [${pair.loser}]`];
  if (pair.margin !== null) details.push(`margin ${pair.margin}`);
  if (pair.weight !== 1) details.push(`weight ${pair.weight}`);
  if (row.scored) details.push(`model ${signed(pair.model)}`);
  const verdict = disagrees(row, pair) ? element("span", { className: "bad", textContent: " \u2717 model disagrees" }) : null;
  return element("li", {}, details.join(" \u00b7 "), verdict);
}

function pairList(row) {
  const { pairs } = row;
  const informative = row.scored || pairs.some((pair) => pair.margin !== null || pair.weight !== 1);
  const list = element("ul", { className: "pairs" }, ...pairs.map((pair) => pairLine(row, pair)));
  if (pairs.length === 1) return informative ? list : null;
  const wrong = pairs.filter((pair) => disagrees(row, pair)).length;
  const summary = count(pairs.length, "preference") + (wrong ? `, the model disagrees with ${wrong}` : "");
  return pairs.length ? element("details", {}, element("summary", { textContent: summary }), list) : null;
}

function* counting() {
  for (let number = 1; ; number += 1) yield number;
}

function article(row, query) {
  const numbers = counting(); // of the images, in the order in which they are shown
  const order = row.responses.map((_, place) => place)
    .sort((a, b) => (row.responses[a].rank ?? Infinity) - (row.responses[b].rank ?? Infinity) || a - b);
  const ranks = new Set(row.responses.map(({ rank }) => rank).filter((rank) => rank !== null)).size;
  const about = [row.source === data.source ? null : row.source, Object.keys(data.splits).length > 1 ? row.split : null,
    row.images.length ? count(row.images.length, "image") : "text only",
    row.margin === null ? null : `${row.scored ? "model's worst" : "smallest"} margin ${signed(row.margin)}`];
  return element("article", {},
    element("header", {}, element("h2", { textContent: row.id }),
      ...about.filter((word) => word !== null).map((word) => element("span", { textContent: word })),
      row.unscored ? element("span", { className: "bad", textContent: `not scored: ${row.unscored}` }) : null),
    ...row.turns.map((part) => turn(row, part, query, numbers)),
    element("ol", { className: `responses${row.responses.length === 2 ? " two" : ""}` },
      ...order.map((place) => response(row, place, ranks, query, numbers))),
    pairList(row));
}

// Filters and order. The address of the page holds them, so that a view can be shared or bookmarked.

function settings() {
  const form = new FormData(controls);
  return Object.fromEntries(fields.map((name) => [name, String(form.get(name) ?? "")]));
}

function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  for (const name of fields) {
    const field = controls.elements[name];
    const value = parameters.get(name) ?? "";
    if (name === "wrong") field.checked = value === "1" && Boolean(data.model);
    else field.value = value;
    if (field.selectedIndex === -1) field.value = "";
  }
  return parameters.get("show") === "all";
}

function writeAddress() {
  const chosen = Object.entries(settings()).filter(([, value]) => value);
  history.replaceState(null, "", chosen.length ? `#${new URLSearchParams(chosen)}` : location.pathname);
}

function candidates({ source, split, modality, wrong }) {
  const [sourceNumber, splitNumber] = [index.names.source.indexOf(source), index.names.split.indexOf(split)];
  const places = [];
  for (let place = 0; place < total; place += 1) {
    const pictures = index.images[place];
    if ((!source || index.source[place] === sourceNumber) && (!split || index.split[place] === splitNumber) &&
      (!wrong || index.disagrees[place]) && (!modality || modality === (pictures > 1 ? "images" : pictures ? "image" : "text"))) places.push(place);
  }
  return places;
}

// The places whose texts have the searched words; null if the reader has made another choice meanwhile.
async function searched(places, search, turn) {
  const words = search.toLowerCase();
  const found = [];
  let last = -1;
  for (const place of places) {
    const chunk = chunkOf(place);
    if (chunk !== last) {
      last = chunk;
      document.getElementById("count").textContent = `Searching: ${place.toLocaleString("en")} of ${total.toLocaleString("en")} rows`;
      await load(chunk);
      forget();
      if (turn !== turnOf) return null;
    }
    if (haystack(place).includes(words)) found.push(place);
  }
  return found;
}

const orders = {
  margin: (a, b) => (index.margin[a] ?? Infinity) - (index.margin[b] ?? Infinity) || 0,
  longest: (a, b) => index.longest[b] - index.longest[a],
};

async function refresh(all = false) {
  turnOf += 1;
  const turn = turnOf;
  const chosen = settings();
  let places = candidates(chosen);
  try {
    if (chosen.search) places = await searched(places, chosen.search, turn);
  } catch (error) {
    showError(error);
    return;
  }
  if (places === null) return;
  matching = chosen.sort ? places.sort(orders[chosen.sort]) : places;
  document.getElementById("rows").replaceChildren(...(matching.length ? [] : [element("p", { className: "note", textContent: "No row matches." })]));
  document.getElementById("count").textContent = `${count(matching.length, "row")} of ${total.toLocaleString("en")}`;
  shown = 0;
  show(all ? matching.length : STEP);
}

function showError({ message }) {
  document.getElementById("rows").append(element("p", { className: "bad", role: "alert", textContent: message }));
}

async function show(number) {
  const turn = turnOf;
  const places = matching.slice(shown, shown + number);
  shown += places.length; // before the files are loaded, so that a second click shows the next rows
  showMore();
  const query = settings().search;
  for (let start = 0; start < places.length; start += STEP) {
    const part = places.slice(start, start + STEP);
    if (!part.every(rowAt)) {
      try {
        await loadRows(part);
      } catch (error) {
        showError(error);
        return;
      }
      if (turn !== turnOf) return;
    }
    document.getElementById("rows").append(...part.map((place) => article(rowAt(place), query)));
    forget();
  }
}

function showMore() {
  const left = matching.length - shown;
  const more = document.getElementById("more");
  more.hidden = left === 0;
  more.querySelector("[name=more]").textContent = `Show ${Math.min(STEP, left)} more`;
  more.querySelector("[name=all]").textContent = `Show all ${left} that are left`;
}

function offer(name, values) {
  const field = controls.elements[name];
  field.append(...values.map((value) => element("option", { value, textContent: value })));
  field.parentElement.hidden = values.length < 2;
}

function start() {
  showHead();
  for (const name of ["source", "split"]) offer(name, index.names[name]);
  const kinds = new Set(index.images.map((number) => Math.min(number, 2)));
  controls.elements.modality.parentElement.hidden = kinds.size < 2;
  controls.elements.wrong.parentElement.hidden = !data.model;
  if (index.margin.every((margin) => margin === null)) controls.elements.sort.querySelector("[value=margin]").remove();
  let timer = 0;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { writeAddress(); refresh(); }, 150);
  });
  document.querySelector("#more [name=more]").addEventListener("click", () => show(STEP));
  document.querySelector("#more [name=all]").addEventListener("click", () => show(matching.length));
  const viewer = document.getElementById("viewer");
  viewer.addEventListener("click", (event) => { if (event.target.tagName !== "P") viewer.close(); });
  addEventListener("hashchange", () => refresh(readAddress()));
  // Rows of files cannot be waited for here, and a hundred thousand rows are not for paper.
  addEventListener("beforeprint", () => { if (!data.files) show(matching.length); });
  refresh(readAddress());
}

start();
