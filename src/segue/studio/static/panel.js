// A frame's panel: what it is made from, its candidates, what can be changed, and a slider that compares.
import { button, draw, h, icon, laidOver } from "./dom.js";
import { act, choose, draft, isBusy, leave, make, view } from "./server.js";
import { poseEditor, poseTools } from "./pose.js";

export function drawPanel() {
  const { panel, against, joint, state } = view;
  const posed = panel && draft().pose;
  draw("sg-panel-place", [panel, against, posed, joint, state.job?.state, state.run?.finished], () => panel ? framePanel(panel) : []);
}

function framePanel(p) {
  const off = isBusy() || !p.can_redo;
  const send = change => act("remake", { place: p.place, change });
  return h("div", { class: "panel", id: "sg-panel", "data-place": p.place, role: "region", "aria-label": "The chosen frame" },
    h("div", { class: "look" }, ...picture(p)),
    h("div", { class: "facts" },
      h("div", { class: "bar top" }, h("h3", {}, p.keyframe ? `Keyframe at ${p.label}` : `Frame ${p.number}`),
        button("close", icon("close"), () => { leave(); view.render(); }, { class: "small bare", "aria-label": "Close the panel", title: "Close" })),
      h("p", { class: "quiet" }, about(p)),
      p.keyframe ? null : h("div", { class: "family" }, parents(p), candidates(p, off, send)),
      p.keyframe ? null : form(p, off, send),
      p.keyframe ? null : poseTools(p, off)));
}

function about(p) {
  if (p.keyframe) return "Your own picture; it is shown as it is.";
  const level = `At ${p.label}, level ${p.level + 1}${p.noise === null ? "" : `, noise level ${p.noise.toFixed(2)}`}.`, others = p.again.length - 1;
  if (!p.can_redo) return `${level} ${view.state.run?.finished ? "Only frames of the scheme branching can be made again." : "Finish the film to change its frames."}`;
  if (!others) return `${level} A change here makes only this frame again.`;
  return `${level} A change here makes this frame again, and the ${others} frame${others > 1 ? "s" : ""} that come${others > 1 ? "" : "s"} from it (ringed on the timeline).`;
}

function picture(p) {
  const { against } = view, { pose } = draft();
  const others = [...p.parents.map((parent, i) => [parent.url, `the parent ${i ? "after" : "before"}`]),
    ...p.candidates.filter(c => !c.chosen).map(c => [c.url, `candidate ${c.number}`])].filter(([url]) => url);
  const stage = h("div", { class: "stage" }, h("img", { src: p.url, alt: p.keyframe ? `keyframe at ${p.label}` : `frame ${p.number}` }));
  stage.style.setProperty("--aspect", `${p.size[0]} / ${p.size[1]}`);
  if (pose) stage.append(poseEditor(p));
  else if (against) laidOver(stage, h("img", { src: against, alt: "compared with" }), "before and after", "cut");
  return [stage,
    others.length ? h("label", { class: "inline" }, "Compare with", h("select", { "data-f": "against",
      onchange: event => { view.against = event.target.value; view.render(); } },
      h("option", { value: "" }, "nothing"), others.map(([url, name]) => h("option", { value: url, selected: url === against }, name)))) : null];
}

function parents(p) {
  if (!p.parents.length) return null;
  return h("div", {}, h("h4", {}, "Made from"), h("div", { class: "thumbs" }, p.parents.map(parent =>
    button(`pa-${parent.place}`, [parent.made ? h("img", { src: parent.url, alt: "" }) : null, parent.keyframe ? "keyframe" : `frame ${parent.number}`],
      () => choose(parent.place), { disabled: !parent.made }))));
}

function candidates(p, off, send) {
  if (!p.candidates.length) return null;
  const score = c => c.score === null || c.score === undefined ? null : `${c.score >= 0 ? "+" : ""}${c.score.toFixed(3)}`;
  return h("div", {}, h("h4", {}, p.candidates.length > 1 ? "Candidates: click the one that stays" : "Candidate"),
    h("div", { class: "thumbs" }, p.candidates.map(c => button(`ca-${c.number}`, [
      h("img", { src: c.url, alt: "" }), c.chosen ? h("span", { class: "tick" }, "✓") : null,
      h("span", {}, `${c.number}`, score(c) ? h("small", {}, score(c)) : null),
    ], () => send({ candidate: c.number }), { "data-candidate": c.number, "aria-pressed": String(c.chosen), disabled: off || c.chosen,
      "aria-label": `candidate ${c.number}${score(c) ? `, score ${score(c)}` : ""}${c.chosen ? ", shown now" : ""}` }))));
}

function form(p, off, send) {
  const mine = draft();
  const field = (name, label, props = {}, tag = "input") => h("label", { class: "field" }, label,
    h(tag, { name, "data-f": `e-${name}`, value: mine.texts[name] ?? p.edit[name] ?? "",
      oninput: event => { mine.texts[name] = event.target.value; }, ...props }));
  const count = p.again.length > 1 ? ` (${p.again.length} frames)` : "";
  const submit = event => { event.preventDefault(); make("texts", Object.fromEntries(new FormData(event.target))); };
  return h("form", { onsubmit: submit },
    h("h4", {}, "This frame's own"),
    h("div", { class: "pair" }, field("prompt", "--prompt", { rows: 2 }, "textarea"), field("negative_prompt", "--negative-prompt", { rows: 2 }, "textarea"),
      field("seed", "--seed", { type: "number", min: 0, step: 1 }),
      field("noise", "--noise", { type: "number", min: 0.05, max: 0.95, step: "any", placeholder: p.noise === null ? "" : p.noise.toFixed(2) })),
    h("div", { class: "bar" },
      h("button", { class: "main", type: "submit", disabled: off, "data-f": "remake" }, `Make again${count}`),
      button("more", "More candidates", () => send({}), { disabled: off })));
}
