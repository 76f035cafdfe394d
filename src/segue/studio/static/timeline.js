// Making: progress, the timeline on which frames appear, undo and redo.
import { $, button, draw, h, icon } from "./dom.js";
import { act, choose, isBusy, say, view } from "./server.js";
import { skeleton } from "./pose.js";

export function drawFilm() {
  const { state, place, panel, showPoses } = view, run = state.run;
  draw("sg-making", [state.job, run?.name, run?.finished, run?.written, names(), state.keyframes.length, state.begun, state.fault],
    () => [h("div", { class: "bar top" }, h("h2", {}, "Film"), films()), ...progress()]);
  draw("sg-timeline", [run, isBusy(), place, panel?.again, showPoses], () => run ? [timeline(run), tools(run)] : []);
}

const names = () => view.state.films.map(film => film.name);

function films() {
  const { run, begun } = view.state, all = names();
  if (!all.length || (all.length === 1 && run)) return null;
  const open = event => { view.beside = ""; act("open", { name: event.target.value }); };
  return h("label", { class: "inline" }, "Show", h("select", { "data-f": "runs", "aria-label": "Film", onchange: open },
    all.includes(begun) ? null : h("option", { value: "", selected: true, disabled: true }, "choose a film"),
    all.map(name => h("option", { value: name, selected: name === begun }, name))));
}

function progress() {
  const { job, run, begun, fault, keyframes } = view.state;
  if (isBusy()) {
    const paused = job.state === "paused", share = Math.round(job.share * 100), fill = h("i");
    fill.style.width = `${share}%`;
    return [h("div", { class: "busy" },
      h("div", { class: "bar top" },
        h("span", { "aria-live": "polite", class: "what" }, paused ? `Paused. ${job.text}` : job.text),
        h("div", { class: "bar" },
          job.state === "running" ? button("pause", "Pause", () => act("pause"), { class: "small" }) : null,
          paused ? button("pause", "Go on", () => act("resume"), { class: "small main" }) : null,
          button("stop", "Stop", () => act("stop"), { class: "small" }))),
      h("div", { class: "progress", role: "progressbar", "aria-valuenow": share, "aria-valuemin": 0, "aria-valuemax": 100,
        "aria-label": "progress" }, fill))];
  }
  const parts = [];
  if (job?.message) {
    const failed = job.state === "failed", text = job.message.replace(/\.$/, "");
    parts.push(h("div", { class: failed ? "notice bad" : "notice", role: "status", id: "sg-ended" },
      failed ? `${job.title} failed: ${text}. What is finished is kept; mend it and continue.` : `${text}.`));
  }
  if (fault) {
    parts.push(h("div", { class: "notice bad", role: "status", id: "sg-fault" },
      `${begun} cannot be shown: ${fault}. Make its pictures into another film, or show another one.`));
  } else if ((run && !(run.finished && run.written)) || (!run && begun)) {
    const resume = () => run ? act("resume") : $("make").click(); // with the settings as they now are on the page
    parts.push(h("div", { class: "bar unfinished" }, h("span", {}, run?.finished ? "The film is not written yet." : "This film is not finished."),
      button("continue", "Continue", resume, { class: "main", id: "sg-continue" })));
  } else if (!run) {
    parts.push(h("div", { class: "nothing" }, h("strong", {}, keyframes.length < 2 ? "Nothing here yet" : "Ready"),
      h("p", { class: "quiet" }, (keyframes.length < 2 ? "Add two pictures, then press “Make the film”. " : "Press “Make the film”. ")
        + "The middle frame comes first, then the quarters, and so on.")));
  }
  return parts;
}

const seen = new Set(); // pictures that were shown before do not appear again
function thumbnail(url) {
  const fresh = !seen.has(url);
  seen.add(url);
  return h("img", { src: url, alt: "", class: fresh ? "fresh" : null });
}

function timeline(run) {
  const again = new Set(view.panel?.can_redo ? view.panel.again : []);
  const list = h("div", { class: "timeline", role: "toolbar", "aria-label": "Timeline" },
    run.frames.map((frame, i) => cell(run, frame, i, again)));
  list.style.setProperty("--aspect", `${run.size[0]} / ${run.size[1]}`);
  return list;
}

function cell(run, frame, i, again) {
  const { place, showPoses } = view, chosen = place === frame.place;
  const what = frame.keyframe ? `keyframe at ${frame.place}` : `frame ${frame.number}, level ${frame.level + 1}`;
  const kind = `${frame.keyframe ? "key" : ""} ${again.has(frame.place) ? "again" : ""}`;
  return button(`t-${frame.place}`, [
    h("span", { class: frame.made ? "cell" : "cell todo" }, frame.made ? thumbnail(frame.url) : null,
      showPoses && frame.pose ? skeleton(frame.pose, run.size) : null),
    frame.edited ? h("span", { class: "mark", title: "made again by you" }, "✎") : null,
    h("span", { class: "under" }, frame.keyframe ? "key" : `${frame.number}`,
      frame.keyframe || frame.level < 0 ? null : h("small", {}, `L${frame.level + 1}`)),
  ], () => choose(frame.place), {
    class: kind, "data-place": frame.place, "aria-pressed": String(chosen), disabled: !frame.made,
    tabindex: chosen || (!place && i === 0) ? 0 : -1, "aria-label": frame.made ? what : `${what}, not made yet`, onkeydown: step,
  });
}

// The arrow keys go along the timeline.
function step(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1, Home: -1e6, End: 1e6 }[event.key];
  if (!by) return;
  event.preventDefault();
  const all = [...event.currentTarget.parentElement.querySelectorAll("button:not(:disabled)")];
  const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(event.currentTarget) + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest", inline: "nearest" });
  choose(next.dataset.place);
}

function tools(run) {
  const busy = isBusy(), posed = run.frames.some(frame => frame.pose), again = view.panel?.can_redo ? view.panel.again.length : 0;
  return h("div", { class: "bar tools" },
    button("undo", [icon("undo"), "Undo"], () => act("undo"), { class: "small", disabled: busy || !run.undo, title: "Ctrl+Z" }),
    button("redo", [icon("redo"), "Redo"], () => act("redo"), { class: "small", disabled: busy || !run.redo, title: "Ctrl+Shift+Z" }),
    posed ? h("label", { class: "inline" }, h("input", { type: "checkbox", "data-f": "poses", checked: view.showPoses,
      onchange: event => { view.showPoses = event.target.checked; view.render(); } }), "Path of poses") : null,
    again ? h("span", { class: "quiet legend" }, h("i", {}), again > 1 ? `${again} frames would be made again` : "only this frame would be made again")
      : view.place ? null : h("span", { class: "quiet" }, "Click a frame to change it."));
}

// Ctrl+Z and Ctrl+Shift+Z, where no text is being typed.
export function onKey(event) {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.closest("input, textarea, [data-joint]")) return;
  const run = view.state?.run;
  if (!run || isBusy() || !(event.shiftKey ? run.redo : run.undo)) return;
  event.preventDefault();
  say("");
  act(event.shiftKey ? "redo" : "undo");
}
