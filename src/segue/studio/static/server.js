// What the page knows, and how it asks the server. "view" is the page's whole state; render() draws it.
import { $ } from "./dom.js";

export const OPEN = ["waiting", "running", "paused"];
const GONE = "The studio does not answer. Start it again with the same command; everything made is kept.";

export const view = {
  state: null, // what the server told: the visitor's table
  place: null, // the frame that is chosen, and its panel
  panel: null,
  typed: {}, // texts that are not sent yet, by field
  cropping: null,
  pose: null, // the pose that is being edited, and the joint [person, number] that goes next
  joint: null,
  showPoses: false,
  against: "", // what the chosen frame is compared with
  beside: "", // what the film is compared with, and how
  mode: "slider",
  render: () => {},
};

export const isBusy = () => Boolean(view.state?.job && OPEN.includes(view.state.job.state));

export async function ask(path, options = {}) {
  let response, answer;
  try {
    response = await fetch(path, options);
    answer = await response.json();
  } catch (error) {
    throw new Error(GONE);
  }
  if (!response.ok) throw new Error(answer.error || `The studio refused (${response.status}).`);
  return answer;
}

export async function act(action, body = {}) {
  try {
    const answer = await ask(`/studio/act/${action}`, { method: "POST", body: JSON.stringify(body) });
    say("");
    take(answer);
    return answer;
  } catch (error) {
    say(error.message);
    refresh();
    return null;
  }
}

let timer = 0;
export async function refresh() {
  clearTimeout(timer);
  try {
    take(await ask("/studio/state"));
    if ($("sg-offline")) $("sg-offline").textContent = "";
  } catch (error) {
    if ($("sg-offline")) $("sg-offline").textContent = error.message;
  }
  timer = setTimeout(refresh, isBusy() ? 500 : 4000);
}

function take(answer) {
  const before = view.state?.job?.state, shown = view.state?.run?.name;
  view.state = answer;
  if (view.place && shown !== answer.run?.name) leave(); // another tab has laid another film on the table
  view.render();
  if (view.place && before !== answer.job?.state) choose(view.place, true);
}

export async function add(files) {
  const faults = [];
  for (const file of files) {
    try {
      take(await ask(`/studio/keyframes?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }));
    } catch (error) {
      faults.push(error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`);
    }
  }
  say(faults.join(" · "));
}

// Show a frame's panel; again quietly when it may have changed.
export async function choose(place, again = false) {
  const begun = performance.now();
  if (!again) {
    if (view.place !== place) forgetTyped();
    Object.assign(view, { place, pose: null, joint: null, against: "" });
  }
  try {
    const found = await ask(`/studio/frame?place=${encodeURIComponent(place)}`);
    if (view.place !== place) return;
    view.panel = found;
  } catch (error) {
    if (!again) say(error.message);
    leave();
  }
  view.render();
  requestAnimationFrame(() => { window.segue.panelMs = performance.now() - begun; });
}

export function leave() {
  forgetTyped();
  Object.assign(view, { place: null, panel: null, pose: null, joint: null });
}

export function forgetTyped() {
  for (const name of Object.keys(view.typed)) if (name.startsWith("e-")) delete view.typed[name];
}

// A message that stays until it is closed or something goes well; an empty one goes.
export function say(text) {
  if ($("sg-notice")) $("sg-notice").textContent = text;
  if ($("sg-toast")) $("sg-toast").hidden = !text;
}
