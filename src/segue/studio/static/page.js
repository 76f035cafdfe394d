// The studio's page: fills the places that Gradio leaves, draws what the server tells, sends back what is done.
import { $, button, forget, h, icon } from "./dom.js";
import { add, refresh, say, view } from "./server.js";
import { drawKeyframes } from "./keyframes.js";
import { drawFilm, onKey } from "./timeline.js";
import { drawPanel } from "./panel.js";
import { drawWatch } from "./watch.js";

view.render = () => {
  if (!view.state || !$("sg-keyframes")) return;
  drawKeyframes();
  drawFilm();
  drawPanel();
  drawWatch();
};

// Fill the places; again if Gradio draws them anew.
function arrange() {
  const top = $("segue-top"), work = $("segue-work");
  if (!top || !work) return false;
  if ($("sg-keyframes") && $("sg-making")) return true;
  top.replaceChildren(
    h("header", {}, h("h1", {}, "Segue studio"), h("p", { class: "quiet" }, "The images between images.")),
    h("div", { id: "sg-offline", class: "notice bad", role: "alert" }),
    h("div", { id: "sg-keyframes" }),
    h("div", { id: "sg-toast", role: "alert", hidden: true }, h("span", { id: "sg-notice" }),
      button("toast-close", icon("close"), () => say(""), { class: "small bare", "aria-label": "Close the message" })));
  work.replaceChildren(h("div", { id: "sg-making" }), h("div", { id: "sg-timeline" }), h("div", { id: "sg-panel-place" }), h("div", { id: "sg-watch" }));
  forget();
  refresh();
  return true;
}

const waiting = setInterval(() => { if (arrange()) { clearInterval(waiting); setInterval(arrange, 1000); } }, 50);
document.addEventListener("keydown", onKey);
document.addEventListener("paste", event => {
  const files = [...(event.clipboardData?.files || [])];
  if (files.length) add(files);
});
// A prompt that is still being typed when the page is left.
addEventListener("pagehide", () => {
  for (const [id, prompt] of Object.entries(view.typed)) {
    navigator.sendBeacon("/studio/act/prompt", JSON.stringify({ film: view.state.begun, id, prompt }));
  }
});
window.segue = { said: text => { say(text || ""); refresh(); }, refresh, panelMs: null };
