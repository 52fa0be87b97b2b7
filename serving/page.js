// The page's script: what is clicked is played, subtitles on a video, Gradio's own words in the visitor's language.
// It runs once, from the status line's js_on_load, and listens on the document: the rows come and go.
if (window.sussurro) return;
window.sussurro = true;

const words = {/*GRADIO*/};
const queued = {/*QUEUED*/};
const language = navigator.languages.map((tag) => tag.split("-")[0]).find((tag) => tag in queued) ?? "en";
document.documentElement.lang = language;

const media = () => document.querySelector("#player video, #player audio");
const rows = () => [...document.querySelectorAll("#timeline .passage")];

// Playing: a click, or Enter on a row, plays from its time; the row that is heard is marked.
document.addEventListener("click", (event) => {
  const at = event.target.closest("#timeline [data-start]");
  if (!at || !media()) return;
  media().currentTime = Number(at.dataset.start);
  media().play().catch(() => {}); // a browser may refuse; the visitor can press Play
});

document.addEventListener("timeupdate", () => {
  const now = media()?.currentTime;
  for (const at of document.querySelectorAll("#timeline [data-start]")) {
    const end = at.dataset.end ? Number(at.dataset.end) : Infinity;
    const heard = now >= Number(at.dataset.start) && now < end;
    if (heard !== at.hasAttribute("aria-current")) {
      heard ? at.setAttribute("aria-current", "true") : at.removeAttribute("aria-current");
    }
  }
}, true);

document.addEventListener("error", (event) => {
  if (event.target !== media() || !media().getAttribute("src")) return;
  media().hidden = true;
  media().nextElementSibling.hidden = false;
}, true);

document.addEventListener("loadedmetadata", (event) => {
  if (event.target !== media()) return;
  if (media().tagName === "VIDEO") media().classList.toggle("sound-only", media().videoWidth === 0);
  subtitle();
}, true);

// One stop for the tab key in the list, the arrows within it.
let focused = 0;
const settle = () => rows().forEach((row, at, all) => (row.tabIndex = at === Math.min(focused, all.length - 1) ? 0 : -1));
document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.("#timeline .passage")) return;
  const all = rows();
  const at = all.indexOf(event.target);
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1}[event.key];
  if (to === undefined || !all[to]) return;
  event.preventDefault();
  all[to].focus();
});
document.addEventListener("focusin", (event) => {
  if (!event.target.matches?.("#timeline .passage")) return;
  focused = rows().indexOf(event.target);
  settle();
});

// Subtitles: one cue a row, added as the rows come.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
function subtitle() {
  if (media()?.tagName !== "VIDEO") return;
  const all = rows();
  let track = media().textTracks[0];
  if (!track) {
    if (!all.length) return;
    const said = all[0].querySelector(".said").lang;
    track = media().addTextTrack("subtitles", said || "Sussurro", said);
    track.mode = "showing";
  }
  if (!track.cues) return; // the visitor has switched them off
  if (track.cues.length > all.length) [...track.cues].forEach((cue) => track.removeCue(cue));
  for (const row of all.slice(track.cues.length)) {
    const text = plain(row.querySelector(".said").textContent);
    track.addCue(new VTTCue(Number(row.dataset.start), Number(row.dataset.end), text));
  }
}

// Gradio's own words: exact ones from a table, never in what was said.
const OURS = "#timeline, #text, #card, #player, #title";
const ATTRIBUTES = ["aria-label", "title", "placeholder"];
const table = words[language] ?? {};
function translated(text) {
  const place = text.match(/^\s*queue: (\d+)\/(\d+)/);
  if (place) return `${queued[language].replace("{place}", place[1]).replace("{all}", place[2])} · `;
  return table[text.trim()];
}
function translate(node) {
  if ((node.nodeType === 1 ? node : node.parentElement)?.closest(OURS)) return;
  if (node.nodeType === 3) {
    const to = translated(node.data);
    if (to && to !== node.data) node.data = to;
    return;
  }
  if (node.nodeType !== 1) return;
  for (const name of ATTRIBUTES) {
    const to = node.hasAttribute(name) && translated(node.getAttribute(name));
    if (to && to !== node.getAttribute(name)) node.setAttribute(name, to);
  }
  node.childNodes.forEach(translate);
}

// What the file pickers offer: the endings are those for which some systems know no type. Whatever is chosen all the
// same, or dropped, is taken: the server says in plain words if it is no recording.
const PICKED = {
  audio: "audio/*,.aac,.aiff,.amr,.caf,.flac,.m4a,.mka,.oga,.ogg,.opus,.wma,.webm,.mp4,.3gp",
  video: "video/*,.3gp,.avi,.flv,.m2ts,.mkv,.mov,.mts,.ogv,.ts,.webm,.wmv",
};
function offer() {
  for (const [id, accept] of Object.entries(PICKED)) {
    const input = document.querySelector(`#${id} input[type=file]`);
    if (input && input.accept !== accept) input.accept = accept;
  }
}

// On a phone the result lies below the options: a run that begins comes into view.
let wasRunning = false;
function follow() {
  const isRunning = document.querySelector("#status .bar") !== null;
  const status = document.querySelector("#status")?.getBoundingClientRect();
  if (isRunning && !wasRunning && (status.top < 0 || status.bottom > innerHeight)) {
    document.querySelector("#status").scrollIntoView({block: "start"});
  }
  wasRunning = isRunning;
}

new MutationObserver((changes) => {
  let isTimeline = false;
  for (const change of changes) {
    if ((change.target.nodeType === 1 ? change.target : change.target.parentElement)?.closest("#timeline")) {
      isTimeline = true;
    } else if (change.type === "childList") {
      change.addedNodes.forEach(translate);
    } else {
      translate(change.target);
    }
  }
  if (isTimeline) { settle(); subtitle(); }
  follow();
  offer();
}).observe(document.body, {childList: true, subtree: true, characterData: true, attributeFilter: ATTRIBUTES});
translate(document.body);
