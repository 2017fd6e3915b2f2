import { follow, send } from "./live.js";
import { apply, says, title } from "./state.js";

const $ = (id) => document.getElementById(id);
const page = document.body.dataset;
let state; // of the room, nothing before the stream has brought it

function element(tag, cls, text) {
  const e = document.createElement(tag);
  e.className = cls;
  e.textContent = text;
  return e;
}

// set changes what is read out only where there is something new to read.
function set(e, text) {
  if (e && e.textContent !== String(text)) e.textContent = text;
}

// A button that is of no use now keeps the focus and can be read, so it is not disabled.
const use = (button, useful) => button.setAttribute("aria-disabled", String(!useful));
const useful = (button) => button.getAttribute("aria-disabled") !== "true";

function playerItem(p) {
  const li = element("li", "", "");
  li.dataset.player = p.id;
  if (p.id === page.me) li.className = "me";
  li.append(
    element("span", "seat", p.team.toUpperCase() + p.seat), " ", element("span", "name", p.name), " ",
    element("span", "points", p.points), element("span", "unseen", " points"),
  );
  if (page.role === "moderator") {
    const remove = element("button", "remove", "×");
    Object.assign(remove, { name: "remove", value: p.id });
    remove.setAttribute("aria-label", `Remove ${p.name}`);
    remove.setAttribute("form", "controls");
    remove.dataset.player = p.id;
    li.append(" ", remove);
  }
  return li;
}

function showTeam(side) {
  const team = side.dataset.team;
  side.dataset.locked = state.now.locked[team];
  set(side.querySelector(".team-name"), state.teams[team]);
  set(side.querySelector(".score"), state.now.scores[team]);
  const list = side.querySelector(".players");
  const all = state.players.filter((p) => p.team === team);
  const shown = [...list.children].map((li) => li.dataset.player);
  if (shown.join() !== all.map((p) => p.id).join()) list.replaceChildren(...all.map(playerItem));
  all.forEach((p, i) => set(list.children[i].querySelector(".points"), p.points));
}

function buzzItem(b) {
  const li = element("li", "", "");
  Object.assign(li.dataset, { player: b.player, place: b.place, round: b.round, team: b.team });
  const behind = b.place === 1 ? "first" : `+${b.behind_ms.toFixed(1)} ms`;
  li.append(element("span", "number", b.place), " ", element("span", "name", b.name), " ", element("span", "behind", behind));
  return li;
}

function showBuzzes() {
  const list = $("buzzes");
  const shown = ({ dataset }, i) => dataset.player === state.buzzes[i]?.player && Number(dataset.round) === state.buzzes[i].round;
  if (![...list.children].every(shown)) list.replaceChildren();
  for (const b of state.buzzes.slice(list.children.length)) list.append(buzzItem(b));
}

function showControls({ phase, question, round, undo }) {
  const open = phase === "armed" || phase === "answering";
  const uses = {
    open: phase === "waiting", right: phase === "answering", wrong: phase === "answering",
    rearm: open, skip: open, undo: undo > 0, end: phase === "waiting", reopen: phase === "over",
  };
  for (const [id, now] of Object.entries(uses)) use($(id), now);
  $("end").hidden = phase === "over";
  $("reopen").hidden = phase !== "over";
  set($("open"), `Open question ${question + 1}`);
  Object.assign($("controls").elements.question, { value: question + 1 });
  Object.assign($("controls").elements.round, { value: round });
  $("controls").querySelector("[name=undo]").value = undo;
}

function show(next) {
  const before = state;
  state = next;
  const { now } = state;
  for (const side of document.querySelectorAll(".team")) showTeam(side);
  set($("question"), title(now));
  set($("floor"), says(state));
  $("floor").classList.toggle("mine", now.floor !== "" && now.floor === page.me);
  showBuzzes();
  if (page.role === "moderator") showControls(now);
  if (page.role === "player") showBuzzer(before);
  Object.assign(page, { phase: now.phase, round: now.round, seq: state.seq }); // last: who waits for it finds the rest done
}

function showBuzzer(before) {
  const me = state.players.find((p) => p.id === page.me);
  if (!me) return location.reload(); // the moderator has removed this player
  const { phase, round, locked } = state.now;
  const pressed = state.buzzes.some((b) => b.player === me.id);
  const may = (phase === "armed" || phase === "answering") && !locked[me.team] && !pressed;
  use($("buzz"), may);
  if (!before) return;
  if (before.now.round !== round) set($("answer"), locked[me.team] ? "Your team has answered this question." : "Press!");
  else if (phase !== before.now.phase && (phase === "waiting" || phase === "over")) set($("answer"), "");
}

function link(live, version) {
  set($("link"), live ? "live" : "reconnecting…");
  $("link").classList.toggle("live", live);
  page.live = live;
  if (!live) return;
  set($("version"), version);
  $("reload").hidden = version === page.version;
}

// --- the player's button

let sending = 0; // the round of a press that has no answer yet

async function press() {
  if (!state || state.now.phase === "waiting" || state.now.phase === "over") return set($("answer"), "No question is open.");
  const { round } = state.now;
  if (sending === round) return;
  sending = round;
  $("buzz").classList.add("down");
  set($("answer"), "Sent…");
  const answer = await send($("buzzer").action, { round });
  if (sending === round) sending = 0;
  $("buzz").classList.remove("down");
  if (state.now.round !== round && !answer.error) return; // the screen is about another round by now
  set($("answer"), answer.error ?? place(answer.buzz));
}

function place(buzz) {
  return buzz.place === 1 ? "You have the floor!" : `Late: place ${buzz.place}, ${buzz.behind_ms.toFixed(1)} ms behind.`;
}

function startBuzzer() {
  const button = $("buzz");
  let touched = false; // the click that follows a touch is the same press
  button.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    touched = true;
    press();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => setTimeout(() => { touched = false; }, 300));
  }
  button.addEventListener("click", (e) => {
    e.preventDefault();
    if (!touched) press(); // by assistive technology
  });
  document.addEventListener("keydown", (e) => { // when a key goes down; a button alone would wait until it comes up
    if (e.key !== " " && e.key !== "Enter" || e.ctrlKey || e.altKey || e.metaKey) return;
    if (e.target !== button && e.target.closest("input, button, a, summary")) return;
    e.preventDefault(); // also where a key is held: it must not press in the round that comes
    if (!e.repeat) press();
  });
}

// --- the moderator's buttons

async function moderate(e) {
  e.preventDefault();
  const button = e.submitter;
  if (!button || !useful(button)) return;
  if (button.id === "end" && !confirm("End the match?")) return;
  if (button.name === "remove" && !confirm(`${button.getAttribute("aria-label")}?`)) return;
  const fields = new FormData(e.target, button);
  set($("notice"), "");
  const answer = await send(e.target.action, fields);
  set($("notice"), answer.error ?? "");
}

if (page.role === "player") startBuzzer();
if (page.role === "moderator") $("controls").addEventListener("submit", moderate);
follow(page.room, { apply, show, link });
