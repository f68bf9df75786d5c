const LONG = { characters: 6000, lines: 80 }; // a longer text is folded
const part = (id) => document.getElementById(id);
const [start, decision, viewer] = [part("start"), part("decision"), part("viewer")];
let person = null; // { annotator, role }
let item = null; // the id of the pair in view
let corrects = false; // whether the person has decided it before, and the page shows that decision
let busy = false; // while the server works, keys do nothing

// Seconds that the pair was in view: a tab in the background does not count.
const clock = { seconds: 0, since: null };
function startClock() { clock.seconds = 0; clock.since = document.hidden ? null : performance.now(); }
function elapsed() { return clock.seconds + (clock.since === null ? 0 : (performance.now() - clock.since) / 1000); }
document.addEventListener("visibilitychange", () => {
  clock.seconds = elapsed();
  clock.since = document.hidden ? null : performance.now();
});

function say(text, isError = false) {
  part("message").textContent = text;
  part("message").className = isError ? "bad" : "";
}

async function call(action, content) {
  let response;
  try {
    response = await fetch(`/${action}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...person, ...content }),
    });
  } catch {
    throw new Error("The server does not answer, and nothing was saved. Start it again, and repeat the last key.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function act(action, content, shown) {
  if (busy) return;
  busy = true;
  try {
    shown(await call(action, content));
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
  }
}

// One pair.

function text(content) {
  const box = element("div", { className: "text", dir: "auto", textContent: content.text });
  const note = cutNote(content.text, content.length);
  return isLong(content.text, LONG) ? [box, foldButton(box, content.length), note] : [box, note];
}

function picture(uri, alt) {
  const image = element("img", { src: uri, alt });
  const fit = () => { image.className = Math.max(image.naturalWidth, image.naturalHeight) <= 128 ? "tiny" : ""; };
  image.addEventListener("load", fit);
  const button = element("button", { type: "button", className: "picture", title: "Enlarge" }, image);
  button.addEventListener("click", () => {
    Object.assign(viewer.querySelector("img"), { src: uri, alt, className: image.className });
    viewer.showModal();
  });
  return button;
}

function showPrompt(turns) {
  let number = 0;
  const piece = (content) => {
    if (!("image" in content)) return text(content);
    number += 1;
    return [picture(content.image, `Image ${number}`)];
  };
  part("prompt").replaceChildren(...turns.map(({ role, parts }) => element("div", { className: "turn" },
    element("div", { className: "label", textContent: role }), ...parts.flatMap(piece))));
}

function showResponses(responses, preferred) {
  part("responses").replaceChildren(...responses.map((response, place) => element("li", { className: place === preferred ? "best" : "" },
    element("div", { className: "meta" },
      element("b", { textContent: `Response ${place + 1}` }),
      element("span", { textContent: place === preferred ? "labelled as better" : "labelled as worse" })),
    ...text(response))));
}

const words = ({ label, ambiguous, tags }) =>
  [`label ${label}`, ambiguous ? "ambiguous" : null, tags.length ? tags.join(", ") : "no error named"].filter(Boolean).join("; ");

function showEarlier(decisions) {
  part("earlier").hidden = decisions.length === 0;
  part("earlier").querySelector("ul").replaceChildren(...decisions.map((one, place) =>
    element("li", { textContent: `Annotator ${place + 1}: ${words(one)}` })));
}

function showProgress({ done, pairs, verified, disputed }) {
  const numbers = [`${count(done, "pair")} by you`, `${verified.toLocaleString("en")} of ${count(pairs, "pair")} verified`];
  if (disputed) numbers.push(`${disputed.toLocaleString("en")} to adjudicate`);
  part("progress").textContent = `${person.annotator}: ${numbers.join(" \u00b7 ")}`;
}

function show(answer) {
  showProgress(answer.progress);
  start.hidden = true;
  const pair = answer.pair;
  part("pair").hidden = pair === null;
  item = pair === null ? null : pair.id;
  corrects = answer.own !== null;
  if (pair === null) {
    say(person.role === "annotator" ? "There is no pair left for you. Thank you." : "There is no pair to adjudicate now.");
    return;
  }
  say("");
  part("id").textContent = pair.id;
  showPrompt(pair.turns);
  showResponses(pair.responses, pair.preferred);
  showEarlier(pair.decisions);
  decision.reset();
  if (answer.own) fill(answer.own);
  scrollTo(0, 0);
  part("id").focus({ preventScroll: true });
  startClock();
}

function fill({ label, ambiguous, tags }) {
  decision.elements.label.value = label;
  decision.elements.ambiguous.checked = ambiguous;
  for (const box of part("tags").querySelectorAll("input")) box.checked = tags.includes(box.value);
}

function save() {
  const label = decision.elements.label.value;
  if (!label) {
    say("Is the label right? Press R or W first.", true);
    return;
  }
  const tags = [...part("tags").querySelectorAll("input:checked")].map((box) => box.value);
  act("save", { item, label, ambiguous: decision.elements.ambiguous.checked, tags, seconds: elapsed(), corrects }, show);
}

function back() {
  act("back", { before: item }, (answer) => {
    if (answer.pair === null) say("There is no earlier pair of yours.");
    else show(answer);
  });
}

// Keys. A button or a box that has the focus keeps its own keys.

const toggle = (box) => { box.checked = !box.checked; };
const keys = {
  r: () => { decision.elements.label.value = "right"; },
  w: () => { decision.elements.label.value = "wrong"; },
  a: () => toggle(decision.elements.ambiguous),
  b: back,
  enter: save,
};

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || viewer.open) return;
  if (part("pair").hidden || target.matches("[type=text]")) return;
  const key = event.key.toLowerCase();
  if (key === "enter" && target.matches("button, summary, a")) return;
  const tag = /^[1-9]$/.test(key) ? part("tags").querySelectorAll("input")[Number(key) - 1] : undefined;
  const action = tag ? () => toggle(tag) : Object.hasOwn(keys, key) ? keys[key] : undefined;
  if (!action) return;
  event.preventDefault();
  if (!busy) action();
});

// The name of the person is in the address, so that the page can be opened again.

function enter(annotator, role, isTyped = false) {
  person = { annotator, role };
  history.replaceState(null, "", `#${new URLSearchParams(person)}`);
  document.title = `${annotator}: ${data.name}`;
  act("next", {}, (answer) => {
    show(answer);
    // Two people with one name would be one person, who agrees with nobody.
    if (isTyped && answer.progress.done && answer.pair) {
      say(`${annotator} has decided ${count(answer.progress.done, "pair")} here before. If that was another person, choose another name.`);
    }
  });
}

function begin() {
  part("title").textContent = data.name;
  part("tags").append(...data.tags.map((tag, place) => element("label", { className: "choice" },
    element("input", { type: "checkbox", value: tag }), element("kbd", { textContent: String(place + 1) }), ` ${tag}`)));
  start.addEventListener("submit", (event) => {
    event.preventDefault();
    const form = new FormData(start);
    enter(String(form.get("annotator")).trim(), String(form.get("role")), true);
  });
  decision.addEventListener("submit", (event) => { event.preventDefault(); save(); });
  decision.elements.back.addEventListener("click", back);
  viewer.addEventListener("click", () => viewer.close());
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.get("annotator")) enter(given.get("annotator"), given.get("role") === "adjudicator" ? "adjudicator" : "annotator");
  else start.elements.annotator.focus();
}

begin();
