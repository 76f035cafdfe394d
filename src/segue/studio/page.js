// The studio's page: draws what the server tells, and sends back what is done. Texts are set as text, never as HTML.
(() => {
  "use strict";
  const LIMBS = [[1, 2], [1, 5], [2, 3], [3, 4], [5, 6], [6, 7], [1, 8], [8, 9], [9, 10], [1, 11], [11, 12], [12, 13],
    [1, 0], [0, 14], [14, 16], [0, 15], [15, 17]];
  const JOINTS = ["nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye",
    "left eye", "right ear", "left ear"];
  const SVG = "http://www.w3.org/2000/svg";
  let state = null, panel = null, place = null, drawn = {}, typed = {}, pose = null, joint = null, beside = "", timer = 0;
  let showPoses = false, against = "", cropping = null;

  function h(tag, props = {}, ...children) {
    const svg = ["svg", "line", "circle"].includes(tag);
    const el = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
      else if (name === "class") el.setAttribute("class", value);
      else if (name === "value") el.value = value;
      else el.setAttribute(name, value === true ? "" : value);
    }
    el.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
    return el;
  }
  const $ = id => document.getElementById(id);

  // Draw a part only when what it shows has changed, and keep the focus where it was.
  function draw(id, what, make) {
    const key = JSON.stringify(what), el = $(id);
    if (!el || drawn[id] === key) return;
    drawn[id] = key;
    const focused = el.contains(document.activeElement) ? document.activeElement : null;
    const mark = focused && focused.dataset.f, open = new Set([...el.querySelectorAll("details[open]")].map(d => d.dataset.f));
    const left = el.querySelector(".timeline") ? el.querySelector(".timeline").scrollLeft : 0;
    el.replaceChildren(...[make()].flat().filter(Boolean));
    for (const d of el.querySelectorAll("details")) if (open.has(d.dataset.f)) d.open = true;
    if (el.querySelector(".timeline")) el.querySelector(".timeline").scrollLeft = left;
    const again = mark && el.querySelector(`[data-f="${CSS.escape(mark)}"]`);
    if (again) again.focus({ preventScroll: true });
  }

  async function ask(path, options = {}) {
    let response, answer;
    try {
      response = await fetch(path, options);
      answer = await response.json();
    } catch (error) {
      throw new Error("The studio does not answer. Start it again with the same command; everything made is kept.");
    }
    if (!response.ok) throw new Error(answer.error || `The studio refused (${response.status}).`);
    return answer;
  }
  async function act(action, body = {}) {
    try {
      const answer = await ask(`/studio/act/${action}`, { method: "POST", body: JSON.stringify(body) });
      say("");
      take(answer);
      return answer;
    } catch (error) { say(error.message); refresh(); return null; }
  }
  async function refresh() {
    clearTimeout(timer);
    try {
      take(await ask("/studio/state"));
      if ($("sg-offline")) $("sg-offline").textContent = "";
    } catch (error) { if ($("sg-offline")) $("sg-offline").textContent = error.message; }
    const busy = state && state.job && ["waiting", "running", "paused"].includes(state.job.state);
    timer = setTimeout(refresh, busy ? 500 : 4000);
  }
  function say(text) {
    for (const id of ["sg-notice", "sg-notice2"]) if ($(id)) $(id).textContent = text;
  }
  function said(text) { say(text || ""); refresh(); }

  async function add(files) {
    for (const file of files) {
      try {
        take(await ask(`/studio/keyframes?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }));
        say("");
      } catch (error) { say(error.message); return; }
    }
  }

  function take(answer) {
    const before = state && state.job ? state.job.state : null;
    state = answer;
    render();
    if (place && before !== (state.job && state.job.state)) choose(place, true);
  }

  // Keyframes.
  function keyframes() {
    const frames = state.keyframes, count = frames.length;
    const file = h("input", { type: "file", accept: "image/*", multiple: true, "data-f": "file", "aria-label": "Add pictures",
      onchange: event => { add([...event.target.files]); event.target.value = ""; } });
    const drop = h("label", { class: "drop",
      ondragover: event => { event.preventDefault(); event.currentTarget.classList.add("over"); },
      ondragleave: event => event.currentTarget.classList.remove("over"),
      ondrop: event => { event.preventDefault(); event.currentTarget.classList.remove("over"); add([...event.dataTransfer.files]); } },
      file, count ? "Add another picture" : "Drop two or more pictures here, or click to choose them");
    const examples = state.examples.map(name => h("button", { class: "small", "data-f": `ex-${name}`,
      onclick: () => { act("example", { name }); } }, name));
    return [
      h("div", { class: "bar top" }, h("h2", {}, "1. Keyframes"),
        count ? h("button", { class: "small", "data-f": "clear", onclick: () => { place = panel = null; act("clear"); } }, "New film") : null),
      count ? h("div", { class: "cards" }, frames.map((frame, i) => card(frame, i, count))) : null,
      drop,
      h("p", { class: "quiet" }, count === 0 ? "The film begins with the first picture and ends with the last. " : count === 1 ? "One more picture is needed. " : "",
        !count && examples.length ? "Or try an example: " : null),
      !count && examples.length ? h("div", { class: "bar" }, examples) : null,
    ];
  }
  function card(frame, i, count) {
    const id = frame.id, crop = frame.crop, editing = cropping === id;
    const image = h("img", { src: frame.url, alt: `keyframe ${i + 1}: ${frame.name}`, draggable: "false" });
    if (crop && !editing) {
      const [l, t, r, b] = crop;
      image.style.objectFit = "fill";
      image.style.objectViewBox = `inset(${t * 100}% ${(1 - r) * 100}% ${(1 - b) * 100}% ${l * 100}%)`;
      image.style.objectFit = "contain";
    }
    const picture = h("div", { class: "picture" }, image);
    if (editing) cropBox(picture, frame);
    const text = h("textarea", { rows: 2, placeholder: "Prompt: what is in the picture", "data-f": `p-${id}`,
      "aria-label": `Prompt of keyframe ${i + 1}`, value: typed[id] ?? frame.prompt,
      oninput: event => { typed[id] = event.target.value; },
      onchange: event => { delete typed[id]; act("prompt", { id, prompt: event.target.value }); } });
    const small = (label, title, f, on, off) => h("button", { class: "small", title, "aria-label": `${title}, keyframe ${i + 1}`,
      "data-f": f, onclick: on, disabled: off }, label);
    const sides = ["left", "top", "right", "bottom"];
    return h("div", { class: "card", "data-id": id }, picture, h("div", { class: "name", title: frame.name }, `${i + 1}. ${frame.name}`),
      text,
      h("div", { class: "bar" },
        small("Describe it", "Describe it", `d-${id}`, async event => {
          event.target.disabled = true; event.target.textContent = "Looking …";
          delete typed[id]; drawn["sg-keyframes"] = ""; await act("describe", { id }); drawn["sg-keyframes"] = ""; render(); }),
        small("←", "Move left", `l-${id}`, () => act("move", { id, by: -1 }), i === 0),
        small("→", "Move right", `r-${id}`, () => act("move", { id, by: 1 }), i === count - 1),
        small("Crop", "Crop", `c-${id}`, () => { cropping = editing ? null : id; render(true); }),
        small("✕", "Remove", `x-${id}`, () => act("remove", { id }))),
      editing ? h("div", {},
        h("p", { class: "quiet" }, "Drag over the picture, or type per cent from the left and the top."),
        h("div", { class: "crop" }, sides.map((side, n) => h("label", {}, side, h("input", { type: "number", min: 0, max: 100,
          "data-f": `cr-${id}-${n}`, "data-side": n, value: Math.round((crop || [0, 0, 1, 1])[n] * 100) })))),
        h("div", { class: "bar" },
          h("button", { class: "small main", "data-f": `cs-${id}`, onclick: event => {
            const box = [...event.target.closest(".card").querySelectorAll("[data-side]")].map(input => input.value / 100);
            cropping = null; act("crop", { id, box }).then(() => render(true)); } }, "Crop"),
          h("button", { class: "small", "data-f": `cw-${id}`, onclick: () => { cropping = null; act("crop", { id, box: null }).then(() => render(true)); } },
            "Whole picture"))) : null);
  }
  function cropBox(picture, frame) {
    const box = h("div", { class: "box" }), [w, ht] = frame.size, big = Math.max(w, ht);
    const inner = { x: (1 - w / big) / 2, y: (1 - ht / big) / 2, w: w / big, h: ht / big };
    const show = ([l, t, r, b]) => Object.assign(box.style, { left: `${(inner.x + l * inner.w) * 100}%`, top: `${(inner.y + t * inner.h) * 100}%`,
      width: `${(r - l) * inner.w * 100}%`, height: `${(b - t) * inner.h * 100}%` });
    show(frame.crop || [0, 0, 1, 1]);
    picture.append(box);
    const at = event => {
      const r = picture.getBoundingClientRect(), clip = value => Math.min(1, Math.max(0, value));
      return [clip(((event.clientX - r.left) / r.width - inner.x) / inner.w), clip(((event.clientY - r.top) / r.height - inner.y) / inner.h)];
    };
    let from = null;
    picture.onpointerdown = event => { from = at(event); picture.setPointerCapture(event.pointerId); };
    picture.onpointerup = () => { from = null; };
    picture.onpointermove = event => {
      if (!from) return;
      const to = at(event), sides = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
      show(sides);
      picture.closest(".card").querySelectorAll("[data-side]").forEach((input, n) => { input.value = Math.round(sides[n] * 100); });
    };
  }

  // Making.
  function making() {
    const job = state.job, run = state.run, open = job && ["waiting", "running", "paused"].includes(job.state);
    const parts = [h("div", { class: "bar top" }, h("h2", {}, "3. The film, frame by frame"), runs())];
    if (open) {
      parts.push(h("div", { class: "bar" }, h("strong", { "aria-live": "polite" }, job.state === "paused" ? `Paused. ${job.text}` : job.text),
        job.state === "running" ? h("button", { class: "small", "data-f": "pause", onclick: () => act("pause") }, "Pause") : null,
        job.state === "paused" ? h("button", { class: "small main", "data-f": "pause", onclick: () => act("resume") }, "Go on") : null,
        h("button", { class: "small", "data-f": "stop", onclick: () => act("stop") }, "Stop")));
      const fill = h("i"); fill.style.width = `${Math.round(job.share * 100)}%`;
      parts.push(h("div", { class: "progress", role: "progressbar", "aria-valuenow": Math.round(job.share * 100), "aria-label": "progress" }, fill));
    } else if (job && job.message) {
      parts.push(h("div", { class: job.state === "failed" ? "notice bad" : "notice", role: "status" },
        job.state === "failed" ? `${job.title} failed: ${job.message}. What is finished is kept; mend it and continue.` : job.message));
    }
    if (!open && ((run && !run.finished) || (!run && state.begun))) {
      parts.push(h("div", { class: "bar" }, h("span", {}, "This film is not finished. "),
        h("button", { class: "main", "data-f": "continue", id: "sg-continue", onclick: () => act("resume") }, "Continue")));
    }
    if (!run && !open) parts.push(h("p", { class: "quiet" }, state.keyframes.length < 2
      ? "Nothing here yet: add two pictures above, then press “Make the film”. The middle frame comes first, then the quarters, and so on."
      : "Press “Make the film”. The middle frame comes first, then the quarters, and so on."));
    if (run) parts.push(timeline(run), tools(run, open));
    return parts;
  }
  function runs() {
    if (state.runs.length < 2) return null;
    return h("label", {}, "Film ", h("select", { "data-f": "runs", onchange: async event => {
      if (await act("open", { name: event.target.value })) location.reload(); } },
      state.runs.map(name => h("option", { value: name, selected: state.run && state.run.name === name }, name))));
  }
  function timeline(run) {
    const touched = new Set(panel && panel.can_redo ? panel.again : []);
    const list = h("div", { class: "timeline", role: "toolbar", "aria-label": "Timeline" }, run.frames.map((frame, i) => {
      const what = frame.keyframe ? "keyframe" : `frame ${frame.number}, level ${frame.level + 1}`;
      return h("button", { class: `${frame.keyframe ? "key " : ""}${touched.has(frame.place) ? "again" : ""}`, "data-f": `t-${frame.place}`,
        "data-place": frame.place, "aria-pressed": String(place === frame.place), disabled: !frame.made, tabindex: place === frame.place || (!place && i === 0) ? 0 : -1,
        "aria-label": frame.made ? what : `${what}, not made yet`, onclick: () => choose(frame.place), onkeydown: step },
        h("span", { class: frame.made ? "cell" : "cell todo" }, frame.made ? h("img", { src: frame.url, alt: "" }) : null,
          showPoses && frame.pose ? skeleton(frame.pose, run.size) : null),
        frame.edited ? h("span", { class: "mark", title: "made again by you" }, "✎") : null,
        h("span", { class: "under" }, frame.keyframe ? "key" : frame.level >= 0 ? `${frame.number} · L${frame.level + 1}` : `${frame.number}`));
    }));
    list.style.setProperty("--aspect", `${run.size[0]} / ${run.size[1]}`);
    return list;
  }
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
  function tools(run, open) {
    return h("div", { class: "bar" },
      h("button", { class: "small", "data-f": "undo", disabled: open || !run.undo, onclick: () => act("undo") }, "↶ Undo"),
      h("button", { class: "small", "data-f": "restore", disabled: open || !run.restore, onclick: () => act("restore") }, "↷ Redo"),
      run.frames.some(frame => frame.pose) ? h("label", {}, h("input", { type: "checkbox", "data-f": "poses", ...(showPoses ? { checked: true } : {}),
        onchange: event => { showPoses = event.target.checked; render(true); } }), " show the path of poses") : null,
      h("span", { class: "quiet" }, place ? "" : "Click a frame to see its candidates, change it, or give it a pose."));
  }

  // A frame's panel.
  async function choose(which, quiet = false) {
    const begun = performance.now();
    if (!quiet || place !== which) { place = which; pose = joint = null; against = ""; }
    try {
      const found = await ask(`/studio/frame?place=${encodeURIComponent(which)}`);
      if (place !== which) return;
      panel = found;
    } catch (error) { if (!quiet) say(error.message); place = panel = null; }
    render();
    requestAnimationFrame(() => { window.segue.panelMs = performance.now() - begun; });
  }
  function framePanel() {
    if (!panel) return [];
    const p = panel, job = state.job, busy = Boolean(job && ["waiting", "running", "paused"].includes(job.state));
    const off = busy || !p.can_redo, others = p.again.length - 1;
    const again = others ? `A change here makes this frame again, and the ${others} frame${others > 1 ? "s" : ""} that come${others > 1 ? "" : "s"} from it (ringed on the timeline).` : "A change here makes only this frame again.";
    const field = (name, label, props = {}, tag = "input") => h("label", { class: "field" }, label,
      h(tag, { name, "data-f": `e-${name}`, value: typed[`e-${name}`] ?? p.edit[name] ?? "", oninput: event => { typed[`e-${name}`] = event.target.value; }, ...props }));
    const send = change => { typed = Object.fromEntries(Object.entries(typed).filter(([name]) => !name.startsWith("e-"))); act("redo", { place: p.place, change }); };
    const form = h("form", { onsubmit: event => {
      event.preventDefault();
      send(Object.fromEntries(new FormData(event.target)));
    } }, h("div", { class: "pair" }, field("prompt", "--prompt (this frame's own)", { rows: 2 }, "textarea"),
      field("negative_prompt", "--negative-prompt", { rows: 2 }, "textarea")),
    h("div", { class: "pair" }, field("seed", "--seed", { type: "number", min: 0, step: 1 }),
      field("noise", `--noise (now ${p.noise === null ? "none" : p.noise.toFixed(2)})`, { type: "number", min: 0.05, max: 0.95, step: 0.01 })),
    h("div", { class: "bar", style: "margin-top:8px" }, h("button", { class: "main", type: "submit", disabled: off, "data-f": "remake" }, "Make again with these"),
      h("button", { type: "button", disabled: off, "data-f": "more", onclick: () => send({}) }, "More candidates")));
    const compare = [...p.parents.map((parent, i) => [parent.url, `parent ${i ? "after" : "before"}`]),
      ...p.candidates.filter(c => !c.chosen).map(c => [c.url, `candidate ${c.number}`])].filter(([url]) => url);
    const stage = h("div", { class: "stage" }, h("img", { src: p.url, alt: `frame ${p.number}` }));
    stage.style.setProperty("--aspect", `${p.size[0]} / ${p.size[1]}`);
    if (against) stage.append(h("div", { class: "over" }, h("img", { src: against, alt: "compared with" })), h("div", { class: "line" }));
    if (pose) stage.append(poseSvg(p));
    const left = h("div", {}, stage,
      against ? h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "before and after", "data-f": "cut",
        oninput: event => stage.style.setProperty("--cut", `${event.target.value}%`) }) : null,
      compare.length ? h("label", {}, "Compare with ", h("select", { "data-f": "against", onchange: event => { against = event.target.value; render(true); } },
        h("option", { value: "" }, "nothing"), compare.map(([url, name]) => h("option", { value: url, selected: url === against }, name)))) : null);
    const right = h("div", {},
      h("div", { class: "bar top" }, h("strong", {}, p.keyframe ? `Keyframe at ${p.label}` : `Frame ${p.number}, at ${p.label}`),
        h("button", { class: "small", "data-f": "close", "aria-label": "Close the panel", onclick: () => { place = panel = pose = null; render(true); } }, "✕")),
      h("p", { class: "quiet" }, p.keyframe ? "Your own picture; it is shown as it is." : `Level ${p.level + 1}${p.noise === null ? "" : `, noise level ${p.noise.toFixed(2)}`}. ${p.can_redo ? again : state.run && state.run.finished ? "Only frames of the scheme branching can be made again." : "Finish the film to change its frames."}`),
      p.parents.length ? h("div", {}, h("p", {}, "Made from"), h("div", { class: "thumbs" }, p.parents.map(parent =>
        h("button", { "data-f": `pa-${parent.place}`, disabled: !parent.made, onclick: () => choose(parent.place) }, parent.made ? h("img", { src: parent.url, alt: "" }) : null, parent.keyframe ? "keyframe" : `frame ${parent.number}`)))) : null,
      p.candidates.length ? h("div", {}, h("p", {}, p.candidates.length > 1 ? "Candidates: click the one that stays" : "Candidates"),
        h("div", { class: "thumbs" }, p.candidates.map(c => h("button", { "data-f": `ca-${c.number}`, "data-candidate": c.number, "aria-pressed": String(c.chosen), disabled: off || c.chosen,
          "aria-label": `candidate ${c.number}${c.chosen ? ", shown now" : ""}`, onclick: () => send({ candidate: c.number }) },
          h("img", { src: c.url, alt: "" }), c.score === null || c.score === undefined ? `${c.number}` : `${c.number}: ${c.score >= 0 ? "+" : ""}${c.score.toFixed(3)}`)))) : null,
      p.keyframe ? null : form, p.keyframe ? null : poseTools(p, off));
    return h("div", { class: "panel", id: "sg-panel", "data-place": p.place }, left, right);
  }

  // Poses.
  function skeleton(people, size, attributes = {}) {
    const svg = h("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, ...attributes }), wide = Math.max(...size) / 60;
    for (const points of people) {
      LIMBS.forEach(([a, b], n) => { if (points[a][2] > 0 && points[b][2] > 0) svg.append(h("line", { x1: points[a][0], y1: points[a][1], x2: points[b][0], y2: points[b][1],
        stroke: `hsl(${n * 21} 90% 60%)`, "stroke-width": wide, "stroke-linecap": "round" })); });
    }
    return svg;
  }
  function poseSvg(p) {
    const size = p.size, svg = skeleton(pose, size, { class: "edit", "aria-label": "Pose editor" });
    const at = event => { const m = svg.getScreenCTM().inverse(), q = new DOMPoint(event.clientX, event.clientY).matrixTransform(m); return [q.x, q.y]; };
    svg.addEventListener("click", event => { if (joint) moveJoint(...at(event), size); });
    pose.forEach((points, person) => points.forEach(([x, y, c], n) => {
      if (c <= 0) return;
      const on = joint && joint[0] === person && joint[1] === n;
      svg.append(h("circle", { cx: x, cy: y, r: Math.max(...size) / 45, fill: `hsl(${n * 20} 90% 55%)`, tabindex: 0, role: "button", "data-f": `j-${person}-${n}`,
        "data-joint": n, "aria-label": JOINTS[n], "aria-pressed": String(Boolean(on)),
        onclick: event => { event.stopPropagation(); joint = on ? null : [person, n]; render(true); },
        onkeydown: event => {
          const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], by = Math.max(...size) / 64;
          if (way) { event.preventDefault(); joint = [person, n]; moveJoint(x + way[0] * by, y + way[1] * by, size, true); }
          else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); joint = [person, n]; render(true); }
          else if (event.key === "Delete") { pose[person][n] = [0, 0, 0]; joint = null; render(true); }
        } }));
    }));
    return svg;
  }
  function moveJoint(x, y, size, keep = false) {
    const [person, n] = joint, clip = (value, most) => Math.round(Math.min(most, Math.max(0, value)) * 100) / 100;
    pose[person][n] = [clip(x, size[0]), clip(y, size[1]), 1];
    if (!keep) joint = null;
    render(true);
  }
  function poseTools(p, off) {
    const copy = people => { pose = JSON.parse(JSON.stringify(people)); joint = null; render(true); };
    const others = state.run.frames.filter(frame => frame.pose && frame.place !== p.place);
    return h("details", { "data-f": "pose-details", id: "sg-pose", ...(pose ? { open: true } : {}) }, h("summary", { "data-f": "pose-summary" }, "Pose"),
      h("p", { class: "quiet" }, p.control === false ? "This model has no ControlNet, so a pose would change nothing; start the studio with --controlnet." :
        pose ? (joint ? `Now click where the ${JOINTS[joint[1]]} goes.` : "Click a joint, then where it goes; or Tab to it and use the arrow keys, Delete takes it away.")
          : p.pose_of === "own" ? "This frame has a pose of its own." : p.pose_of === "path" ? "This frame's pose lies on the path between its neighbours' poses." : "Nobody was found; begin with a standing figure, or copy a pose."),
      h("div", { class: "bar" },
        !pose && p.pose.length ? h("button", { class: "small", "data-f": "pose-edit", onclick: () => copy(p.pose) }, "Edit the pose") : null,
        h("button", { class: "small", "data-f": "pose-stand", onclick: () => copy(p.standing) }, "Standing figure"),
        others.length ? h("select", { "data-f": "pose-copy", "aria-label": "Copy a pose", onchange: event => { if (event.target.value) copy(others[event.target.value].pose); } },
          h("option", { value: "" }, "Copy from …"), others.map((frame, i) => h("option", { value: i }, frame.keyframe ? `keyframe at ${frame.place}` : `frame ${frame.number}`))) : null,
        pose ? h("button", { class: "small", "data-f": "pose-no", onclick: () => { pose = joint = null; render(true); } }, "Leave as it was") : null,
        pose ? h("button", { class: "small main", "data-f": "pose-make", disabled: off || p.control === false, onclick: () => { const people = pose; pose = joint = null; act("redo", { place: p.place, change: { pose: people } }); } }, "Make with this pose") : null));
  }

  // Watching.
  function watch() {
    const run = state.run;
    if (!run || !run.film || !run.finished) return [h("h2", {}, "4. Watch"), h("p", { class: "quiet" }, "The film plays here when it is finished.")];
    const others = state.runs.filter(name => name !== run.name);
    const video = h("video", { src: run.film, controls: true, loop: true, playsinline: true, muted: true, id: "sg-video", "aria-label": "The film" });
    const films = [video];
    if (beside) films.push(h("video", { src: `/files/film/${encodeURIComponent(beside)}/${encodeURIComponent(beside)}.mp4`, loop: true, playsinline: true, muted: true, "aria-label": `The film ${beside}` }));
    films.forEach(film => { film.muted = true; });
    const both = does => films.forEach(does);
    if (films[1]) ["play", "pause", "seeked"].forEach(kind => video.addEventListener(kind, () => {
      films[1].currentTime = video.currentTime; films[1].playbackRate = video.playbackRate; if (video.paused) films[1].pause(); else films[1].play(); }));
    const stages = films.map(film => { const stage = h("div", { class: "stage" }, film); stage.style.setProperty("--aspect", `${run.size[0]} / ${run.size[1]}`); return stage; });
    const side = h("div", { class: "side" },
      h("div", { class: "bar" },
        h("button", { class: "main", "data-f": "play", onclick: () => { if (video.paused) both(film => film.play()); else both(film => film.pause()); } }, "▶ Play / pause"),
        h("label", {}, "Speed ", h("select", { "data-f": "speed", "aria-label": "Speed", onchange: event => both(film => { film.playbackRate = Number(event.target.value); }) },
          [0.25, 0.5, 1, 2, 4].map(speed => h("option", { value: speed, selected: speed === 1 }, `${speed} ×`)))),
        h("label", {}, h("input", { type: "checkbox", checked: true, "data-f": "loop", onchange: event => both(film => { film.loop = event.target.checked; }) }), " loop"),
        others.length ? h("label", {}, "Beside ", h("select", { "data-f": "beside", onchange: event => { beside = event.target.value; render(true); } },
          h("option", { value: "" }, "nothing"), others.map(name => h("option", { value: name, selected: name === beside }, name)))) : null),
      h("p", {}, "Download"),
      h("div", { class: "bar" }, [["mp4", "MP4"], ["gif", "GIF"], ["webp", "WebP"], ["png", "PNGs"], ["sheet", "Contact sheet"]].map(([kind, name]) =>
        h("a", { class: "button", href: `/download/${kind}`, download: true, "data-f": `dl-${kind}` }, name))),
      h("p", {}, "The same on the command line"), h("pre", { id: "sg-command" }, run.commands.join("\n")),
      h("button", { class: "small", "data-f": "copy", onclick: event => { navigator.clipboard.writeText(run.commands.join("\n")).then(() => { event.target.textContent = "Copied"; }); } }, "Copy"));
    return [h("h2", {}, "4. Watch"), h("div", { class: films[1] ? "watch two" : "watch" }, stages, side)];
  }

  function render(force = false) {
    if (!state || !$("sg-keyframes")) return;
    if (force) drawn = { ...drawn, "sg-keyframes": "", "sg-making": "", "sg-panel-place": "", ...(beside !== drawn.beside ? { "sg-watch": "", beside } : {}) };
    const job = state.job && { state: state.job.state };
    draw("sg-keyframes", [state.keyframes, state.examples], keyframes);
    draw("sg-making", [state.job, state.run, state.runs, state.keyframes.length, state.begun, place, panel && panel.again], making);
    draw("sg-panel-place", [panel, job, state.run && state.run.finished], framePanel);
    draw("sg-watch", [state.run && [state.run.film, state.run.finished, state.run.commands], state.runs], watch);
  }

  // Fill the places that Gradio leaves; again if it draws them anew.
  function arrange() {
    const top = $("segue-top"), work = $("segue-work"), end = $("segue-end");
    if (!top || !work || !end) return false;
    if (!$("sg-keyframes")) {
      top.classList.add("sg"); work.classList.add("sg"); end.classList.add("sg");
      top.replaceChildren(h("h1", {}, "Segue studio"), h("p", { class: "quiet" }, "The images between images. Add pictures, make the film, change what you do not like."),
        h("div", { id: "sg-offline", class: "notice bad", role: "alert" }), h("div", { id: "sg-notice", class: "notice bad", role: "alert" }),
        h("div", { id: "sg-keyframes" }), h("h2", {}, "2. Settings"));
      work.replaceChildren(h("div", { id: "sg-notice2", class: "notice bad" }), h("div", { id: "sg-making" }), h("div", { id: "sg-panel-place" }), h("div", { id: "sg-watch" }));
      drawn = {};
      refresh();
    }
    return true;
  }
  const waiting = setInterval(() => { if (arrange()) { clearInterval(waiting); setInterval(arrange, 1000); } }, 50);
  document.addEventListener("paste", event => { const files = [...(event.clipboardData?.files || [])]; if (files.length) add(files); });
  window.segue = { said, refresh, panelMs: null };
})();
