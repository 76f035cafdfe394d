// Watching: the coarse film while it is made; then the film, beside or against another one; and what to take away.
import { button, draw, h, icon, laidOver } from "./dom.js";
import { say, view } from "./server.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const KINDS = [["mp4", "MP4"], ["mov", "MOV"], ["webm", "WebM"], ["gif", "GIF"], ["webp", "WebP"], ["png", "PNGs"], ["sheet", "Contact sheet"]];
const GAP_MS = 2000; // from one keyframe to the next in the coarse film
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export function drawWatch() {
  const { run, films } = view.state, made = run && !run.finished ? run.frames.filter(frame => frame.made) : [];
  if (run?.film && run.finished) {
    draw("sg-watch", ["film", run.film, run.before, run.commands, films, view.beside, view.mode], () => film(run));
  } else {
    draw("sg-watch", ["coarse", made.map(frame => frame.url)], () => coarse(run, made));
  }
  const settings = document.getElementById("film-settings");
  if (settings) settings.style.display = run?.finished ? "" : "none";
}

const head = () => h("h2", {}, "Watch");

function staged(size, ...children) {
  const stage = h("div", { class: "stage" }, ...children);
  stage.style.setProperty("--aspect", `${size[0]} / ${size[1]}`);
  return stage;
}

// The frames that are there, each until the next one's place.
let flip = 0, flipped = 0; // the next turn, and the place that was shown last
function coarse(run, made) {
  clearTimeout(flip);
  if (made.length < 3) return view.state.run ? [head(), h("p", { class: "quiet" }, "The film plays here, coarse at first, as its frames come.")] : [];
  const places = made.map(frame => { const [over, under = 1] = frame.place.split("/"); return over / under; });
  let i = Math.max(0, places.findLastIndex(place => place <= flipped)); // goes on where it was drawn anew
  const picture = h("img", { src: made[i].url, alt: "the frames made so far" });
  const turn = () => {
    if (!picture.isConnected) return;
    i = (i + 1) % made.length;
    [flipped, picture.src] = [places[i], made[i].url];
    wait();
  };
  const wait = () => { flip = setTimeout(turn, i + 1 < made.length ? Math.max(40, (places[i + 1] - places[i]) * GAP_MS) : 600); };
  if (!still()) wait();
  return [head(), h("div", { class: "watch" }, staged(run.size, picture), h("div", { class: "side" },
    h("p", {}, `The coarse film: ${made.length} of ${run.frames.length} frames.`),
    h("p", { class: "quiet" }, "It grows finer with every level; the film is written when all frames are there.")))];
}

function film(run) {
  const show = (src, label, props = {}) => {
    const video = h("video", { src, loop: view.loops, playsinline: true, muted: true, preload: "auto", "aria-label": label, ...props });
    video.muted = true; // the attribute alone does not hold for elements made by a script
    video.defaultPlaybackRate = video.playbackRate = view.speed;
    return video;
  };
  const other = otherFilm(run), first = show(run.film, "The film", { id: "sg-video" });
  const second = other ? show(other, view.beside === "before" ? "The film before the last change" : `The film ${view.beside}`, { id: "sg-other" }) : null;
  const slider = second && view.mode === "slider", stages = [staged(run.size, first)];
  if (slider) laidOver(stages[0], second, "before and after, of the films", "film-cut");
  else if (second) stages.push(staged(run.size, second));
  if (second) {
    stages[0].append(h("span", { class: "tag" }, run.name));
    stages[stages.length - 1].append(h("span", { class: slider ? "tag right" : "tag" }, view.beside === "before" ? "before" : view.beside));
  }
  if (!still()) for (const video of [first, second]) video?.play().catch(() => {});
  return [head(), h("div", { class: second && !slider ? "watch two" : "watch" },
    h("div", { class: "films" }, stages, player(first, second)),
    h("div", { class: "side" }, compare(run), downloads(), commands(run)))];
}

function otherFilm(run) {
  return view.beside === "before" ? run.before : others(run).find(film => film.name === view.beside)?.url;
}

// The other films that there are to see.
const others = run => view.state.films.filter(film => film.url && film.name !== run.name);

// Play, scrub, speed and loop, of both films at once.
function player(first, second) {
  const films = [first, second].filter(Boolean);
  const toggle = button("play", [icon("play"), "Play"], () => first.paused ? first.play() : first.pause(), { class: "main" });
  const scrub = h("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0, "data-f": "scrub", "aria-label": "place in the film",
    oninput: event => { for (const one of films) one.currentTime = event.target.value * (first.duration || 0); } });
  const time = h("span", { class: "quiet time" }, "0.0 s");
  const shown = () => { toggle.replaceChildren(icon(first.paused ? "play" : "pause"), first.paused ? "Play" : "Pause"); };
  first.addEventListener("timeupdate", () => {
    if (document.activeElement !== scrub || !first.paused) scrub.value = first.currentTime / (first.duration || 1);
    time.textContent = `${first.currentTime.toFixed(1)} of ${(first.duration || 0).toFixed(1)} s`;
    if (second && Math.abs(second.currentTime - first.currentTime) > 0.1 && first.currentTime < second.duration) second.currentTime = first.currentTime;
  });
  for (const kind of ["play", "pause"]) first.addEventListener(kind, () => { shown(); second?.[kind]?.()?.catch?.(() => {}); });
  return h("div", { class: "player" }, scrub, h("div", { class: "bar" }, toggle, time,
    h("label", { class: "inline" }, "Speed", h("select", { "data-f": "speed", "aria-label": "Speed",
      onchange: event => { view.speed = Number(event.target.value); for (const one of films) one.playbackRate = view.speed; } },
      SPEEDS.map(speed => h("option", { value: speed, selected: speed === view.speed }, `${speed} ×`)))),
    h("label", { class: "inline" }, h("input", { type: "checkbox", checked: view.loops, "data-f": "loop",
      onchange: event => { view.loops = event.target.checked; for (const one of films) one.loop = view.loops; } }), "Loop")));
}

function compare(run) {
  const choices = [...(run.before ? [["before", "the film before its last change"]] : []), ...others(run).map(({ name }) => [name, name])];
  if (!choices.length) return null;
  const set = values => { Object.assign(view, values); view.render(); };
  return h("div", {}, h("h4", {}, "Compare with"), h("div", { class: "bar" },
    h("select", { "data-f": "beside", "aria-label": "Compare with", onchange: event => set({ beside: event.target.value }) },
      h("option", { value: "" }, "nothing"), choices.map(([value, name]) => h("option", { value, selected: value === view.beside }, name))),
    view.beside ? h("div", { class: "either", role: "group", "aria-label": "How to compare" }, [["slider", "Slider"], ["beside", "Side by side"]].map(([mode, name]) =>
      button(`mode-${mode}`, name, () => set({ mode }), { class: "small", "aria-pressed": String(view.mode === mode) }))) : null));
}

function downloads() {
  const film = encodeURIComponent(view.state.begun);
  return h("div", {}, h("h4", {}, "Download"), h("div", { class: "bar" }, KINDS.map(([kind, name]) =>
    h("a", { class: "button small", href: `/download/${kind}?film=${film}`, download: true, "data-f": `dl-${kind}`, onclick: download }, icon("down"), name))));
}

// Fetched first, so that a refusal is a message and not a broken file.
async function download(event) {
  event.preventDefault();
  const link = event.currentTarget;
  if (link.getAttribute("aria-busy") === "true") return;
  link.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(link.href).catch(() => { throw new Error("The studio does not answer, so nothing was downloaded."); });
    if (!response.ok) throw new Error((await response.json()).error);
    const named = /filename="?([^";]+)/.exec(response.headers.get("content-disposition") || "");
    const url = URL.createObjectURL(await response.blob());
    h("a", { href: url, download: named ? named[1] : "film" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  } catch (error) { say(`The download failed: ${error.message}`); }
  link.removeAttribute("aria-busy");
}

function commands(run) {
  const text = run.commands.join("\n");
  return h("details", { "data-f": "commands" }, h("summary", { "data-f": "commands-summary" }, "The same on the command line"),
    h("pre", { id: "sg-command", tabindex: 0, "aria-label": "command line" }, text),
    button("copy", "Copy", async event => {
      const pressed = event.target;
      try { await navigator.clipboard.writeText(text); pressed.textContent = "Copied"; } catch (error) { say("The browser does not let the page copy; select the text instead."); }
    }, { class: "small" }));
}
