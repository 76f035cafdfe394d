// Elements, and drawing a part of the page only when what it shows has changed. Texts are set as text, never as HTML.
const SVG = "http://www.w3.org/2000/svg";
const DRAWINGS = ["svg", "line", "circle", "path", "title"];

export const $ = id => document.getElementById(id);

// An element with attributes ("on..." are listeners, null and false leave one out) and children.
export function h(tag, props = {}, ...children) {
  const el = DRAWINGS.includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (name === "value") el.value = value;
    else el.setAttribute(name, value === true ? "" : value);
  }
  el.append(...children.flat(2).filter(child => child !== null && child !== undefined && child !== false));
  return el;
}

// A button; "f" names it, so that the focus finds it again after it was drawn anew.
export const button = (f, label, onclick, props = {}) => h("button", { type: "button", "data-f": f, onclick, ...props }, label);

const ICONS = {
  left: "M10 3 5 8l5 5", right: "m6 3 5 5-5 5", close: "m4 4 8 8m0-8-8 8", crop: "M4.5 1v10.5H15M1 4.5h10.5V15",
  play: "M5 3v10l8-5z", pause: "M5.5 3v10m5-10v10", undo: "M6 3 3 6l3 3M3 6h6.5a3.5 3.5 0 0 1 0 7H7",
  redo: "m10 3 3 3-3 3m3-3H6.5a3.5 3.5 0 0 0 0 7H9", add: "M8 3v10M3 8h10", down: "M8 2v8m-3-3 3 3 3-3M3 14h10",
  arrow: "M2 8h12m-4-4 4 4-4 4",
};
export const icon = name => h("svg", { viewBox: "0 0 16 16", class: `icon ${name}`, "aria-hidden": "true" },
  h("path", { d: ICONS[name] }));

const drawn = {};

// Draw a part anew if what it shows has changed; the focus, opened folds and the timeline's place stay.
export function draw(id, what, make) {
  const key = JSON.stringify(what), el = $(id);
  if (!el || drawn[id] === key) return;
  drawn[id] = key;
  const focused = el.contains(document.activeElement) ? document.activeElement : null;
  const mark = focused && focused.dataset.f;
  const range = mark && focused.selectionStart !== undefined ? [focused.selectionStart, focused.selectionEnd] : null;
  const open = new Set([...el.querySelectorAll("details[open]")].map(details => details.dataset.f));
  const left = el.querySelector(".timeline")?.scrollLeft || 0;
  el.replaceChildren(...[make()].flat().filter(Boolean));
  for (const details of el.querySelectorAll("details")) if (open.has(details.dataset.f)) details.open = true;
  if (el.querySelector(".timeline")) el.querySelector(".timeline").scrollLeft = left;
  const again = mark && el.querySelector(`[data-f="${CSS.escape(mark)}"]`);
  if (!again) return;
  again.focus({ preventScroll: true });
  if (range && range[0] !== null && again.setSelectionRange) again.setSelectionRange(...range);
}

export function forget(...ids) {
  for (const id of ids.length ? ids : Object.keys(drawn)) delete drawn[id];
}
