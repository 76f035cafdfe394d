// Poses: the skeleton over a picture, its editor, and its tools.
import { button, forget, h } from "./dom.js";
import { draft, make, view } from "./server.js";

const LIMBS = [[1, 2], [1, 5], [2, 3], [3, 4], [5, 6], [6, 7], [1, 8], [8, 9], [9, 10], [1, 11], [11, 12], [12, 13],
  [1, 0], [0, 14], [14, 16], [0, 15], [15, 17]];
const JOINTS = ["nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
  "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye", "right ear", "left ear"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function skeleton(people, size, attributes = {}) {
  const svg = h("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, ...attributes }), wide = Math.max(...size) / 60;
  for (const points of people) {
    LIMBS.forEach(([a, b], n) => {
      if (points[a][2] <= 0 || points[b][2] <= 0) return;
      svg.append(h("line", { x1: points[a][0], y1: points[a][1], x2: points[b][0], y2: points[b][1],
        stroke: `hsl(${n * 21} 90% 60%)`, "stroke-width": wide, "stroke-linecap": "round" }));
    });
  }
  return svg;
}

// The skeleton with joints to click: a joint, then where it goes.
export function poseEditor(panel) {
  const { pose } = draft(), size = panel.size, svg = skeleton(pose, size, { class: "edit", "aria-label": "Pose editor" });
  svg.addEventListener("click", event => {
    if (!view.joint) return;
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    moveJoint(at.x, at.y, size);
  });
  pose.forEach((points, person) => points.forEach((point, n) => {
    if (point[2] > 0) svg.append(jointDot(point, person, n, size));
  }));
  return svg;
}

function jointDot([x, y], person, n, size) {
  const on = view.joint?.[0] === person && view.joint?.[1] === n, by = Math.max(...size) / 64;
  const pick = () => { view.joint = on ? null : [person, n]; redraw(); };
  return h("circle", { cx: x, cy: y, r: Math.max(...size) / 45, fill: `hsl(${n * 20} 90% 55%)`, tabindex: 0, role: "button",
    "data-f": `j-${person}-${n}`, "data-joint": n, "aria-label": JOINTS[n], "aria-pressed": String(on),
    onclick: event => { event.stopPropagation(); pick(); },
    onkeydown: event => {
      const way = ARROWS[event.key];
      if (!way && !["Enter", " ", "Delete"].includes(event.key)) return;
      event.preventDefault();
      if (way) { view.joint = [person, n]; moveJoint(x + way[0] * by, y + way[1] * by, size, true); }
      else if (event.key === "Delete") { draft().pose[person][n] = [0, 0, 0]; view.joint = null; redraw(); }
      else pick();
    } }, h("title", {}, JOINTS[n]));
}

function moveJoint(x, y, size, keep = false) {
  const [person, n] = view.joint, clip = (value, most) => Math.round(Math.min(most, Math.max(0, value)) * 100) / 100;
  draft().pose[person][n] = [clip(x, size[0]), clip(y, size[1]), 1];
  if (!keep) view.joint = null;
  redraw();
}

function redraw() {
  forget("sg-panel-place");
  view.render();
}

export function poseTools(panel, off) {
  const { state } = view, mine = draft(), { pose } = mine;
  const edit = people => { mine.pose = people; view.joint = null; redraw(); };
  const copy = people => edit(structuredClone(people));
  const others = state.run.frames.filter(frame => frame.pose?.length && frame.place !== panel.place);
  const missing = (pose || []).flatMap((points, person) => points.map((point, n) => [person, n]).filter(([, n]) => points[n][2] <= 0));
  const option = ([person, n], i) => h("option", { value: i }, pose.length > 1 ? `${JOINTS[n]} of ${person + 1}` : JOINTS[n]);
  return h("details", { "data-f": "pose-details", id: "sg-pose", open: Boolean(pose) }, h("summary", { "data-f": "pose-summary" }, "Pose"),
    h("p", { class: "quiet", "aria-live": "polite" }, hint(panel)),
    h("div", { class: "bar" },
      !pose && panel.pose.length ? button("pose-edit", "Edit the pose", () => copy(panel.pose), { class: "small" }) : null,
      button("pose-stand", "Standing figure", () => copy(panel.standing), { class: "small" }),
      others.length ? h("select", { "data-f": "pose-copy", "aria-label": "Copy a pose",
        onchange: event => { if (event.target.value) copy(others[event.target.value].pose); } }, h("option", { value: "" }, "Copy from …"),
        others.map((frame, i) => h("option", { value: i }, frame.keyframe ? `keyframe at ${frame.place}` : `frame ${frame.number}`))) : null,
      missing.length ? h("select", { "data-f": "pose-add", "aria-label": "Add a joint",
        onchange: event => { if (event.target.value) { view.joint = missing[event.target.value]; redraw(); } } },
        h("option", { value: "" }, "Add a joint …"), missing.map(option)) : null,
      pose ? button("pose-make", "Make with this pose", () => make("pose", { pose }), { class: "small main", disabled: off || panel.control === false }) : null,
      pose ? button("pose-no", "Leave as it was", () => edit(null), { class: "small" })
        : panel.pose_of === "own" ? button("pose-reset", "Make without its own pose", () => make("pose", { pose: [] }), { class: "small", disabled: off }) : null));
}

function hint(panel) {
  if (panel.control === false) return "This model has no ControlNet, so a pose would change nothing; start the studio with --controlnet.";
  if (view.joint) return `Now click where the ${JOINTS[view.joint[1]]} goes.`;
  if (draft().pose) return "Click a joint, then where it goes; or Tab to it and use the arrow keys, Delete takes it away.";
  return { own: "This frame has a pose of its own.", path: "This frame's pose lies on the path between its neighbours' poses." }[panel.pose_of]
    || "Nobody was found; begin with a standing figure, or copy a pose.";
}
