// The list of sentences, with the words marked that differ.

// Those that differ from the first in words; the others differ in punctuation alone.
export function inWords(alternatives) {
  return alternatives.filter(({ diff }, place) => place === 0 || diff.length);
}

// One list item: a button with number and sentence.
export function itemOf(alternative, place, all) {
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = `${place + 1}`;
  const sentence = document.createElement("span");
  sentence.append(...(place ? markOther(alternative) : markFirst(alternative, all)));
  const button = document.createElement("button");
  button.type = "button";
  button.append(number, sentence);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

const wordsOf = (text) => text.split(/\s+/).filter(Boolean);

// `diff` counts words of the first: {at, instead_of, word}; here, where the new words stand in the other.
function markOther({ display, diff }) {
  const words = wordsOf(display);
  const parts = [];
  let read = 0;
  let shift = 0;
  for (const { at, instead_of: old, word } of diff) {
    const [gone, come] = [wordsOf(old), wordsOf(word)];
    const begin = at + shift;
    parts.push(...plain(words.slice(read, begin)), come.length ? marked("mark", come) : dropped(gone));
    read = begin + come.length;
    shift += come.length - gone.length;
  }
  return spaced([...parts, ...plain(words.slice(read))]);
}

// Of the first, the words that another sentence has otherwise.
function markFirst({ display }, all) {
  const differs = new Set();
  for (const { diff } of all)
    for (const { at, instead_of: old } of diff) wordsOf(old).forEach((_, offset) => differs.add(at + offset));
  return spaced(wordsOf(display).map((word, place) => (differs.has(place) ? marked("mark", [word]) : word)));
}

const plain = (words) => (words.length ? [words.join(" ")] : []);

function marked(tag, words) {
  const element = document.createElement(tag);
  element.textContent = words.join(" ");
  return element;
}

function dropped(words) {
  const whole = document.createElement("span");
  const spoken = document.createElement("span");
  spoken.className = "heard";
  spoken.textContent = "without ";
  whole.append(spoken, marked("del", words));
  return whole;
}

const spaced = (parts) => parts.flatMap((part, place) => (place ? [" ", part] : [part]));
