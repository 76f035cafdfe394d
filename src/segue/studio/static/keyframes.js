// The keyframes: dropping, ordering, cropping, describing; and the examples of an empty table.
import { $, button, draw, forget, h, icon } from "./dom.js";
import { act, add, reloadSettings, sendPrompt, view } from "./server.js";

const DRAGGED = "text/segue-keyframe";
const SIDES = ["left", "top", "right", "bottom"];

export function drawKeyframes() {
  const { keyframes: frames, examples: given, begun, cleared } = view.state;
  draw("sg-keyframes", [frames, given, begun, cleared, view.reading], keyframes);
}

// Draw anew what only the page knows; the focus goes to the control that is named.
function redraw(focus) {
  forget("sg-keyframes");
  view.render();
  if (focus) $("sg-keyframes").querySelector(`[data-f="${CSS.escape(focus)}"]`)?.focus();
}

function keyframes() {
  const { keyframes: frames, begun, cleared } = view.state, count = frames.length;
  const turn = (action, label, title = null) => button("table", label, async event => {
    if (event.detail > 1) return; // the second click of two, which meets another button
    if (await act(action)) reloadSettings();
    if (document.activeElement === document.body) $("sg-keyframes").querySelector("[data-f=file]").focus();
  }, { class: "small", title });
  const head = h("div", { class: "bar top" }, h("h2", {}, "Keyframes"),
    begun ? turn("new", "New film")
      : count ? turn("clear", "Clear", "Take these pictures away; they can be brought back")
        : cleared ? turn("bring_back", `Bring ${cleared > 1 ? `the ${cleared} pictures` : "the picture"} back`) : null);
  if (!count) return [head, drop("Drop two or more pictures here", "or click to choose them", "large"), examples()];
  const hint = count === 1 ? "One more picture is needed." : "The film goes from the first to the last.";
  return [head, h("div", { class: "cards" }, frames.map((frame, i) => card(frame, i, count)), drop("Add a picture", hint))];
}

function drop(title, hint, size = "") {
  const file = h("input", { type: "file", accept: "image/*", multiple: true, "data-f": "file", "aria-label": "Add pictures",
    onchange: event => { add([...event.target.files]); event.target.value = ""; } });
  const over = (event, is) => { event.preventDefault(); event.currentTarget.classList.toggle("over", is); };
  return h("label", { class: `drop ${size}`, ondragover: event => over(event, true), ondragleave: event => over(event, false),
    ondrop: event => { over(event, false); add([...event.dataTransfer.files]); } },
    file, icon("add"), h("strong", { "aria-live": "polite" }, view.reading ? `Reading ${view.reading} …` : title), h("span", { class: "quiet" }, hint));
}

function examples() {
  if (!view.state.examples.length) return null;
  return h("div", { class: "examples" }, h("span", { class: "quiet" }, "Or begin with an example:"),
    view.state.examples.map(({ name, urls }) => button(`ex-${name}`, [
      h("img", { src: urls[0], alt: "" }), icon("arrow"), h("img", { src: urls[urls.length - 1], alt: "" }), h("span", {}, name),
    ], async () => { if (await act("example", { name })) reloadSettings(); }, { class: "example" })));
}

function card(frame, i, count) {
  const id = frame.id, editing = view.cropping === id;
  const picture = h("div", { class: "picture", draggable: editing ? "false" : "true",
    ondragstart: event => { event.dataTransfer.setData(DRAGGED, id); event.dataTransfer.effectAllowed = "move"; } },
    h("img", { src: editing ? frame.whole : frame.url, alt: `keyframe ${i + 1}: ${frame.name}`, draggable: "false" }),
    h("span", { class: "number" }, `${i + 1}`));
  const tool = (f, name, label, does, off = false) => button(`${f}-${id}`, label, does,
    { class: "small", title: name, "aria-label": `${name}, keyframe ${i + 1}`, disabled: off });
  const over = (event, is) => {
    if (!event.dataTransfer.types.includes(DRAGGED)) return;
    event.preventDefault();
    event.currentTarget.classList.toggle("over", is);
  };
  return h("div", { class: editing ? "card editing" : "card", "data-id": id,
    ondragover: event => over(event, true), ondragleave: event => over(event, false),
    ondrop: event => {
      over(event, false);
      const moved = event.dataTransfer.getData(DRAGGED), from = view.state.keyframes.findIndex(one => one.id === moved);
      if (from >= 0 && from !== i) act("move", { id: moved, by: i - from });
    } },
    picture, h("div", { class: "name", title: frame.name }, frame.name),
    editing ? cropTools(picture, frame, i) : [
      h("textarea", { rows: 2, placeholder: "Prompt: what is in the picture", "data-f": `p-${id}`,
        "aria-label": `Prompt of keyframe ${i + 1}`, value: view.typed[id] ?? frame.prompt,
        oninput: event => { view.typed[id] = event.target.value; },
        onchange: event => sendPrompt(id, event.target.value) }),
      h("div", { class: "bar tools" },
        tool("d", "Describe it", "Describe it", async event => {
          event.target.disabled = true;
          event.target.textContent = "Looking …";
          delete view.typed[id];
          await act("describe", { id });
          redraw();
        }),
        tool("c", "Crop", icon("crop"), () => { view.cropping = id; redraw(`cr-${id}-0`); }),
        tool("l", "Move left", icon("left"), () => act("move", { id, by: -1 }), i === 0),
        tool("r", "Move right", icon("right"), () => act("move", { id, by: 1 }), i === count - 1),
        tool("x", "Remove", icon("close"), () => act("remove", { id })))]);
}

// Cropping: drag a box over the picture, or type its sides.
function cropTools(picture, frame, i) {
  const id = frame.id, box = h("div", { class: "box" });
  const sides = view.crops[id] ??= [...(frame.crop || [0, 0, 1, 1])];
  const [width, height] = frame.size, big = Math.max(width, height);
  const inner = { x: (1 - width / big) / 2, y: (1 - height / big) / 2, w: width / big, h: height / big };
  const show = () => {
    const [left, top, right, bottom] = sides;
    Object.assign(box.style, { left: `${(inner.x + left * inner.w) * 100}%`, top: `${(inner.y + top * inner.h) * 100}%`,
      width: `${(right - left) * inner.w * 100}%`, height: `${(bottom - top) * inner.h * 100}%` });
  };
  const inputs = SIDES.map((side, n) => h("input", { type: "number", min: 0, max: 100, "data-f": `cr-${id}-${n}`, "data-side": n,
    "aria-label": `${side} of the crop, keyframe ${i + 1}, in per cent`, value: Math.round(sides[n] * 100),
    oninput: event => { sides[n] = Number(event.target.value) / 100; show(); } }));
  const at = event => {
    const r = picture.getBoundingClientRect(), clip = value => Math.min(1, Math.max(0, value));
    return [clip(((event.clientX - r.left) / r.width - inner.x) / inner.w),
      clip(((event.clientY - r.top) / r.height - inner.y) / inner.h)];
  };
  let from = null;
  picture.addEventListener("pointerdown", event => { from = at(event); picture.setPointerCapture(event.pointerId); });
  picture.addEventListener("pointerup", () => { from = null; });
  picture.addEventListener("pointermove", event => {
    if (!from) return;
    const to = at(event);
    [0, 1].forEach(n => { sides[n] = Math.min(from[n], to[n]); sides[n + 2] = Math.max(from[n], to[n]); });
    inputs.forEach((input, n) => { input.value = Math.round(sides[n] * 100); });
    show();
  });
  picture.append(box);
  show();
  const leave = () => { delete view.crops[id]; view.cropping = null; redraw(`c-${id}`); };
  const done = async crop => { if (await act("crop", { id, box: crop })) leave(); };
  return h("div", { class: "cropping", onkeydown: event => { if (event.key === "Escape") leave(); } }, h("p", { class: "quiet" }, "Drag over the picture, or type per cent."),
    h("div", { class: "crop" }, inputs.map((input, n) => h("label", {}, SIDES[n], input))),
    h("div", { class: "bar" }, button(`cs-${id}`, "Crop", () => done(sides), { class: "small main" }),
      button(`cw-${id}`, "Whole", () => done(null), { class: "small", title: "Show the whole picture" }),
      button(`cl-${id}`, "Leave it", leave, { class: "small", title: "Leave the crop as it was" })));
}
