"use strict";
// What every page with a script shares. The values in the data come from files and models, so they enter the page as
// text nodes only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

const isLong = (words, limits) => words.length > limits.characters || words.split("\n").length > limits.lines;

// The data hold the beginning of a very long text, and its whole length in code points, as Python counts them.
function cutNote(words, length) {
  const cut = length - Array.from(words).length;
  return cut > 0 ? element("p", { className: "note", textContent: `${count(cut, "more character")}, not in this page` }) : null;
}

function foldButton(box, length) {
  const button = element("button", { type: "button", className: "plain" });
  const fold = (folded) => {
    box.classList.toggle("long", folded);
    button.ariaExpanded = String(!folded);
    button.textContent = folded ? `Show all ${count(length, "character")}` : "Show less";
  };
  button.addEventListener("click", () => fold(!box.classList.contains("long")));
  fold(true);
  return button;
}

