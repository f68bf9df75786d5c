const LONG = { characters: 900, lines: 14 }; // a longer text is folded
const FEW = 5; // published values of a metric that are shown before one asks for all
const ORDERS = { fixed: "fixed", random: "random", both: "both orders" };
const KINDS = { scores: "scores", correct: "right or wrong, as given", verdicts: "verdicts" };

const sign = (text) => text.replace("-", "\u2212");
const signed = (number) => `${number < 0 ? "\u2212" : "+"}${Math.abs(number).toFixed(3)}`;
const sorted = (node, value) => { if (value !== null) node.dataset.sort = value; return node; };
const whole = (number) => number.toLocaleString("en", { maximumFractionDigits: 3 });

function cell(name, text, className = "number") {
  const node = element("td", { textContent: text ?? "", className });
  node.dataset.name = name;
  return node;
}

function table(columns, caption, ...bodies) {
  const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col", textContent: name })));
  return element("table", { className: "cards sortable" }, caption, element("thead", {}, head), ...bodies);
}

// Models by benchmarks: the first metric of the first variant of each.

function headline(benchmark) {
  const { variant, metric } = benchmark.rows[0];
  const values = new Map();
  benchmark.rows.forEach((row, place) => {
    if (row.variant !== variant || row.metric !== metric || row.source === "published") return;
    values.set(`${row.source} ${row.model}`, [row, benchmark.percent[place]]);
  });
  return { variant, metric, values };
}

function overviewCell(found, best) {
  if (!found || found[0].value === null) return element("td", { className: "number", textContent: "\u2013" });
  const [row, [value, low, high]] = found;
  return sorted(element("td", { className: "number" },
    element(row.value === best && row.source === "measured" ? "b" : "span", { textContent: value }),
    low === null || low === undefined ? null : element("small", { textContent: `${low}\u2013${high}` }),
    row.partial ? element("small", { className: "bad", textContent: "partial" }) : null), row.value);
}

function overview(benchmarks) {
  const columns = benchmarks.map(headline);
  const models = [...new Set(benchmarks.flatMap(({ models: members }) => members.map(({ label }) => `measured ${label}`)))];
  const bests = columns.map(({ values }) => Math.max(...[...values.values()].filter(([row]) => row.source === "measured").map(([row]) => row.value ?? -1)));
  const value = (key, { values }) => values.get(key)?.[0].value ?? -1;
  // Sorted by the first benchmark; models that have no value there by the next one.
  models.sort((a, b) => columns.reduce((order, column) => order || value(b, column) - value(a, column), 0));
  const row = (key, className) => element("tr", { className }, element("th", { scope: "row", textContent: key.slice(key.indexOf(" ") + 1) }),
    ...columns.map((column, place) => overviewCell(column.values.get(key), bests[place])));
  const baselines = [...new Set(columns.flatMap(({ values }) => [...values.keys()]))].filter((key) => key.startsWith("baseline "));
  const heads = benchmarks.map(({ name, version, partial: part }, place) => element("th", { scope: "col", ariaSort: place === 0 ? "descending" : null },
    element("span", {}, `${name} ${version}${part ? ", in part" : ""}`, element("small", { textContent: `${columns[place].variant}, ${columns[place].metric}` }))));
  const head = element("tr", {}, element("th", { scope: "col", textContent: "model" }), ...heads);
  const node = element("table", { className: "sortable overview" }, element("thead", {}, head),
    element("tbody", {}, ...models.map((key) => row(key, "measured")), ...baselines.map((key) => row(key, "baseline"))));
  const box = element("div", { className: "wide", tabIndex: 0, role: "group", ariaLabel: "Models by benchmarks" }, node);
  const note = "Right answers in percent with the 95 % interval of each value alone, by the first metric of the first variant of each benchmark. " +
    "The best value of a benchmark is bold; whether two models differ is under Agreement, on the same items.";
  return element("section", { id: "overview" }, element("h2", { textContent: "Models by benchmarks" }), box, element("p", { className: "note", textContent: note }));
}

// Every table of a benchmark repeats which models were not scored on all items.

function partial(models) {
  return models.filter((model) => model.partial !== null).map((model) =>
    element("b", { textContent: ` ${model.label}: scored ${model.scored.toLocaleString("en")} of ${model.items.toLocaleString("en")}; partial: ${model.partial}.` }));
}

// One variant: measured values, then baselines, then published values; the best model first.

const COLUMNS = ["Model", "Right, %", "Counted", "95 % interval", "Ties", "Undecided", "Unscored", "Order"];

function measuredRow(row, [value, low, high]) {
  const missing = row.partial !== null ? element("small", { className: "bad", textContent: `partial: scored ${row.scored.toLocaleString("en")} of ${row.items.toLocaleString("en")}` }) : null;
  const votes = row.votes === null ? "" : `, ${count(row.votes, "vote")}`;
  const order = row.order === null ? "none" : `${ORDERS[row.order]}${votes}`;
  return element("tr", { className: "measured" },
    element("th", { scope: "row" }, row.model, missing),
    cell("right, %", value ?? "none", "number value"),
    sorted(cell("counted", row.denominator === null ? "" : `${whole(row.numerator ?? 0)} / ${whole(row.denominator)}`), row.denominator),
    sorted(cell("95 % interval", low === null ? "" : `${low}\u2013${high} ${row.interval}`, "interval"), row.low),
    cell("ties", whole(row.ties)), cell("undecided", whole(row.undecided)), cell("unscored", whole(row.unscored)),
    cell("order", order, ""));
}

function baselines(rows) {
  if (!rows.length) return [];
  const parts = rows.map(([row, [value]]) => `${row.model} ${value}${row.note ? ` (${row.note})` : ""}`).join(" \u00b7 ");
  const all = element("td", { colSpan: COLUMNS.length - 1, className: "left wide", textContent: parts });
  return [element("tr", { className: "baseline" }, element("th", { scope: "row", textContent: "baselines, %" }), all)];
}

function printed(rows) {
  const nodes = rows.map(([row, shares]) => publishedRow(row, shares));
  if (nodes.length <= FEW) return nodes;
  const rest = nodes.slice(FEW);
  const button = element("button", { type: "button", className: "plain", textContent: `Show ${count(rest.length, "more published value")}` });
  const line = element("tr", { className: "more" }, element("td", { colSpan: COLUMNS.length, className: "left wide" }, button));
  const open = () => { rest.forEach((node) => { node.hidden = false; }); line.hidden = true; };
  rest.forEach((node) => { node.hidden = true; });
  button.addEventListener("click", open);
  return [...nodes, line];
}

function publishedRow(row, [value]) {
  const details = [row.paper, row.table, row.note].filter(Boolean).join("; ");
  const rest = cell("", "", "");
  rest.colSpan = COLUMNS.length - 2;
  return element("tr", { className: row.source },
    element("th", { scope: "row" }, row.model, element("small", { textContent: details })),
    cell("right, %", value ?? "none", "number value"), rest);
}

function variantTable(benchmark, variant) {
  const places = benchmark.rows.map((_, place) => place).filter((place) => benchmark.rows[place].variant === variant);
  const metrics = [...new Set(places.map((place) => benchmark.rows[place].metric))];
  const rowsOf = (source, metric) => places.map((place) => [benchmark.rows[place], benchmark.percent[place]])
    .filter(([row]) => row.source === source && row.metric === metric)
    .sort(([a], [b]) => (source === "baseline" ? 0 : (b.value ?? -1) - (a.value ?? -1)));
  const bodies = metrics.map((metric) => element("tbody", {},
    element("tr", {}, element("th", { scope: "rowgroup", colSpan: COLUMNS.length, textContent: metric })),
    ...rowsOf("measured", metric).map(([row, shares]) => measuredRow(row, shares)),
    ...baselines(rowsOf("baseline", metric)), ...printed(rowsOf("published", metric))));
  return table(COLUMNS, element("caption", {}, `${benchmark.name} ${benchmark.version}, variant ${variant}.`, ...partial(benchmark.models)), ...bodies);
}

function about({ label, model, kind, order, votes, items, scored, partial: missing, run_id: run }) {
  const parts = [model === label ? null : model, KINDS[kind], `scored ${scored.toLocaleString("en")} of ${count(items, "item")}`,
    missing === null ? null : `partial: ${missing}`, order === null ? "order: none" : `order: ${ORDERS[order]}`, votes === null ? null : count(votes, "vote"), run ? `run ${run}` : null];
  return element("p", { className: missing === null ? "note" : "warning" }, element("b", { textContent: label }), `: ${parts.filter(Boolean).join("; ")}`);
}

// Pairs of models on the same items.

const AGREEMENT = ["Models", "Agreement, %", "Kappa", "Both right", "First only", "Second only", "Both wrong", "Difference, points", "McNemar p"];

function agreementRow(pair) {
  const head = element("th", { scope: "row", textContent: `${pair.first} and ${pair.second}` });
  if (pair.refused) {
    const refused = element("td", { className: "left wide", colSpan: AGREEMENT.length - 1, textContent: pair.refused });
    refused.dataset.name = "not compared";
    return element("tr", {}, head, refused);
  }
  const { alike, difference, low, high } = pair.percent;
  const range = low === null ? "" : ` (${sign(low)} to ${sign(high)})`;
  const p = pair.p < 0.0001 ? "< 0.0001" : pair.p.toFixed(4);
  return element("tr", {}, head, cell("agreement, %", alike), cell("kappa", pair.kappa === null ? "none" : sign(pair.kappa.toFixed(3))),
    cell("both right", whole(pair.both_right)), cell("first only", whole(pair.only_first)),
    cell("second only", whole(pair.only_second)), cell("both wrong", whole(pair.both_wrong)),
    sorted(cell("difference, points", `${sign(difference)}${range}`, ""), difference), sorted(cell("McNemar p", p), pair.p));
}

function agreementTable({ agreement, models }) {
  const note = "Both models on the same items. Undecided items count as not right. Difference: first minus second, with a 95 % " +
    "bootstrap interval over prompts; p: exact and two-sided, not corrected for the number of comparisons.";
  return table(AGREEMENT, element("caption", {}, note, ...partial(models)), element("tbody", {}, ...agreement.map(agreementRow)));
}

// The errors of a model.

function text({ text: words, length }) {
  const box = element("div", { className: "text", dir: "auto", textContent: words });
  const note = cutNote(words, length);
  if (!isLong(words, LONG)) return [box, note];
  return [box, foldButton(box, length), note];
}

function picture(uri, alt) {
  const button = element("button", { type: "button", className: "picture", title: "Enlarge" },
    element("img", { src: uri, alt, loading: "lazy", decoding: "async" }));
  button.addEventListener("click", () => {
    const viewer = document.getElementById("viewer");
    Object.assign(viewer.querySelector("img"), { src: uri, alt });
    viewer.showModal();
  });
  return button;
}

function answer(response, place) {
  const role = response.right ? "right" : response.wrong ? "wrong" : "";
  const meta = [element("b", { textContent: role || "not compared" }), element("code", { textContent: `[${place}]` }),
    response.score === null ? null : element("b", { textContent: `score ${signed(response.score)}` }),
    response.votes === null ? null : element("b", { textContent: count(response.votes, "vote") }),
    element("span", { textContent: count(response.length, "character") })];
  return element("li", { className: role }, element("div", { className: "meta" }, ...meta), ...text(response));
}

function article(item) {
  const labels = Object.entries(item.labels).map(([name, value]) => `${name} ${value}`);
  const details = [`row ${item.row}`, ...labels, item.margin === null ? null : `margin ${signed(item.margin)}`];
  return element("article", {},
    element("header", {}, element("h4", { textContent: item.id }),
      ...details.filter(Boolean).map((word) => element("span", { className: "label", textContent: word })),
      item.tie ? element("span", { className: "bad", textContent: "tie" }) : null),
    item.picture ? picture(item.picture, `Image of ${item.id}`) : null,
    ...text(item.prompt),
    element("ol", { className: `answers${item.answers.length === 2 ? " two" : ""}` }, ...item.answers.map(answer)));
}

function gallery({ label, wrong, undecided, items }) {
  const shown = items.length < wrong ? `, the ${items.length} worst here` : "";
  const unsure = undecided ? `; ${undecided.toLocaleString("en")} undecided` : "";
  return element("details", { className: "errors" }, element("summary", { textContent: `${label}: ${wrong.toLocaleString("en")} wrong${shown}${unsure}` }), ...items.map(article));
}

// A benchmark.

function drawing({ title, uri, alt, width, height }) {
  return element("figure", {}, element("figcaption", { textContent: title }), element("img", { src: uri, alt, width, height }));
}

// One way of counting. The first is shown, the others are folded.

function variantSection(benchmark, variant, place) {
  const body = variantTable(benchmark, variant);
  return element("details", { open: place === 0 }, element("summary", { className: "variant", textContent: `Variant ${variant}` }), body);
}

function section(benchmark, place) {
  const variants = [...new Set(benchmark.rows.map((row) => row.variant))];
  return element("section", { id: `benchmark-${place}` }, element("h2", { textContent: `${benchmark.name} ${benchmark.version}${benchmark.partial ? ", in part" : ""}` }),
    ...benchmark.models.map(about),
    ...variants.map((variant, number) => variantSection(benchmark, variant, number)),
    element("h3", { textContent: "Figures" }), element("div", { className: "figures" }, ...benchmark.figures.map(drawing)),
    ...(benchmark.agreement.length ? [element("h3", { textContent: "Agreement between models" }), agreementTable(benchmark)] : []),
    element("h3", { className: "errors", textContent: "Errors, the worst margin first" }), ...benchmark.errors.map(gallery));
}

function start() {
  const { benchmarks, without } = data;
  const evaluations = benchmarks.reduce((sum, { models }) => sum + models.length, 0);
  document.getElementById("about").textContent = `${count(evaluations, "evaluation")} on ${count(benchmarks.length, "benchmark")}. ` +
    "A variant is one way of counting; values of different variants cannot be compared. \u25c7 marks a published value of the same variant.";
  Object.assign(document.getElementById("without"), { hidden: !without, textContent: without ?? "" });
  document.getElementById("contents").append(...benchmarks.map(({ name, version }, place) =>
    element("a", { href: `#benchmark-${place}`, textContent: `${name} ${version}` })));
  document.getElementById("benchmarks").append(overview(benchmarks), ...benchmarks.map(section));
  enhanceTables(document);
  const viewer = document.getElementById("viewer");
  viewer.addEventListener("click", () => viewer.close());
}

start();
