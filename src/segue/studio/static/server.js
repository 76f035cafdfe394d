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
  drafts: {}, // what is typed and posed for a frame and not made yet, by film and place
  sent: null, // what was sent of a draft, until it is made
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

// What is typed and posed for the frame of the panel and not made yet; it waits there until the frame is chosen again.
export const draft = () => view.drafts[`${view.state.begun} ${view.panel.place}`] ??= { texts: {}, pose: null };

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

// Do something with the film that the page shows; null where it was refused, which is said.
export async function act(action, body = {}) {
  try {
    const asked = { film: view.state.begun, ...body };
    const answer = await ask(`/studio/act/${action}`, { method: "POST", body: JSON.stringify(asked) });
    say("");
    take(answer);
    soon();
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
  soon();
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, isBusy() ? 500 : 4000);
}

function take(answer) {
  const before = view.state?.job?.state, shown = view.state?.begun;
  view.state = answer;
  if (shown !== answer.begun) leave(); // this tab or another one has laid another film on the table
  settle(answer.job?.state);
  view.render();
  if (view.place && before !== answer.job?.state) choose(view.place, true);
  follow(answer.begun);
  if (shown !== answer.begun) sendTyped();
}

// Forget of a draft what is made now, where it was not changed since; what failed is still to be sent.
function settle(state) {
  if (!view.sent || OPEN.includes(state)) return;
  const { mine, part, value } = view.sent;
  if (state === "done" && JSON.stringify(mine[part]) === value) mine[part] = part === "texts" ? {} : null;
  view.sent = null;
}

// Make the panel's frame again as a part of its draft says, "texts" or "pose".
export async function make(part, change) {
  const mine = draft(), value = JSON.stringify(mine[part]), place = view.panel.place;
  if (await act("remake", { place, change })) view.sent = { mine, part, value };
}

// Have the settings show what belongs to the film on the table.
let asked = { film: null, at: 0 };
function follow(film) {
  const shown = $("segue-table")?.querySelector("input, textarea");
  if (!shown || shown.value === film || (asked.film === film && Date.now() - asked.at < 3000)) return;
  asked = { film, at: Date.now() };
  reloadSettings();
}

// Send the prompts that are typed for the keyframes on the table and wait there, but the one that is being typed.
async function sendTyped() {
  for (const { id } of view.state.keyframes) {
    const prompt = view.typed[id];
    if (prompt === undefined || document.activeElement?.dataset.f === `p-${id}`) continue;
    await sendPrompt(id, prompt);
  }
}

export async function sendPrompt(id, prompt) {
  if (await act("prompt", { id, prompt }) && view.typed[id] === prompt) delete view.typed[id];
}

export async function add(files) {
  const faults = [], film = encodeURIComponent(view.state.begun);
  for (const file of files) {
    view.reading = file.name;
    view.render();
    try {
      take(await ask(`/studio/keyframes?film=${film}&name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }));
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

export const reloadSettings = () => $("reload-settings")?.click();

// A message that stays until it is closed or something goes well; an empty one goes.
export function say(text) {
  if ($("sg-notice")) $("sg-notice").textContent = text;
  if ($("sg-toast")) $("sg-toast").hidden = !text;
}
