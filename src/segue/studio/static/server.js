// What the page knows, and how it asks the server. "view" is the page's whole state; render() draws it.
import { $ } from "./dom.js";

export const OPEN = ["waiting", "running", "paused"];
const GONE = "The studio does not answer. Start it again with the same command; everything made is kept.";

export const view = {
  state: null, // what the server told: the visitor's table
  place: null, // the frame that is chosen, and its panel
  panel: null,
  typed: {}, // prompts that are not sent yet, by keyframe
  cropping: null, // the keyframe that is being cropped, and the sides of its crop that are not sent yet, by keyframe
  crops: {},
  reading: "", // the picture that is on its way to the server
  drafts: {}, // what is typed and posed for a frame and not sent yet, by film and place
  joint: null, // of the pose that is being edited: the joint [person, number] that goes next
  showPoses: false,
  against: "", // what the chosen frame is compared with
  beside: "", // what the film is compared with, and how
  mode: "slider",
  speed: 1, // how the film plays
  loops: true,
  render: () => {},
};

export const isBusy = () => Boolean(view.state?.job && OPEN.includes(view.state.job.state));

// What is typed and posed for the frame of the panel and not sent yet; it waits there until the frame is chosen again.
export const draft = () => view.drafts[`${view.state.run?.name} ${view.panel.place}`] ??= { texts: {}, pose: null };

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
    view.reading = file.name;
    view.render();
    try {
      take(await ask(`/studio/keyframes?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }));
    } catch (error) {
      faults.push(error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`);
    }
  }
  view.reading = "";
  view.render();
  say(faults.join(" · "));
}

// Show a frame's panel; again quietly when it may have changed.
export async function choose(place, again = false) {
  const begun = performance.now();
  if (!again) Object.assign(view, { place, joint: null, against: "" });
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
  Object.assign(view, { place: null, panel: null, joint: null });
}

// Have the settings show what belongs to the table.
export const reloadSettings = () => $("reload-settings")?.click();

// A message that stays until it is closed or something goes well; an empty one goes.
export function say(text) {
  if ($("sg-notice")) $("sg-notice").textContent = text;
  if ($("sg-toast")) $("sg-toast").hidden = !text;
}
