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
  showPlayers(side.querySelector(".players"), state.players.filter((p) => p.team === team));
}

// The items that are there stay, and with them the focus of who is on one of their buttons.
function showPlayers(list, all) {
  for (const li of [...list.children]) {
    if (!all.some((p) => p.id === li.dataset.player)) li.remove();
  }
  all.forEach((p, i) => {
    if (list.children[i]?.dataset.player !== p.id) list.insertBefore(playerItem(p), list.children[i] ?? null);
    set(list.children[i].querySelector(".points"), p.points);
  });
  while (list.children.length > all.length) list.lastElementChild.remove();
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
  const open = isOpen(phase);
  const uses = {
    open: phase === "waiting", right: phase === "answering", wrong: phase === "answering",
    rearm: open, skip: open, undo: undo > 0, end: phase === "waiting", reopen: phase === "over",
  };
  for (const [id, now] of Object.entries(uses)) use($(id), now && !asked.has($(id)));
  const [there, gone] = phase === "over" ? [$("reopen"), $("end")] : [$("end"), $("reopen")];
  const focused = document.activeElement === gone;
  there.hidden = false;
  gone.hidden = true;
  if (focused) there.focus();
  set($("open"), `Open question ${question + 1}`);
  Object.assign($("controls").elements.question, { value: question + 1 });
  Object.assign($("controls").elements.round, { value: round });
  $("controls").querySelector("[name=undo]").value = undo;
}

function show(next) {
  state = next;
  const { now } = state;
  for (const side of document.querySelectorAll(".team")) showTeam(side);
  set($("question"), title(now));
  set($("floor"), says(state));
  $("floor").classList.toggle("mine", now.floor !== "" && now.floor === page.me);
  showBuzzes();
  if (page.role === "moderator") showControls(now);
  if (page.role === "player") showBuzzer();
  Object.assign(page, { phase: now.phase, round: now.round, seq: state.seq }); // last: who waits for it finds the rest done
}

const isOpen = (phase) => phase === "armed" || phase === "answering";

function showBuzzer() {
  const me = state.players.find((p) => p.id === page.me);
  if (!me) return location.reload(); // the moderator has removed this player
  const { phase, round, locked } = state.now;
  const mine = state.buzzes.find((b) => b.player === me.id);
  use($("buzz"), isOpen(phase) && !locked[me.team] && !mine);
  const same = Number(page.round) === round && isOpen(page.phase) === isOpen(phase); // as what was shown until now
  if (same) return;
  if (!isOpen(phase)) set($("answer"), "");
  else if (mine) set($("answer"), place(mine)); // an undo has led back to here
  else set($("answer"), locked[me.team] ? "Your team has answered this question." : "Press!");
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

let sending = ""; // the round of a press that has no answer yet

async function press() {
  const { phase, round } = page; // at first, before the stream has begun, what the server rendered
  if (!isOpen(phase)) return set($("answer"), "No question is open.");
  if (sending === round) return;
  sending = round;
  $("buzz").classList.add("down");
  set($("answer"), "Sent…");
  const answer = await send($("buzzer").action, { round });
  if (sending === round) sending = "";
  $("buzz").classList.remove("down");
  if (page.round !== round) return; // the screen is about another round by now
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

// The buttons whose answer is not there, or only just: a double-click is meant once, also where the second click would find
// something new to do.
const asked = new Set();

async function moderate(e) {
  e.preventDefault();
  const button = e.submitter;
  if (!button || !useful(button)) return;
  if (button.id === "end" && !confirm("End the match?")) return;
  if (button.name === "remove" && !confirm(`${button.getAttribute("aria-label")}?`)) return;
  const fields = new FormData(e.target, button);
  asked.add(button);
  use(button, false);
  set($("notice"), "");
  const answer = await send(e.target.action, fields);
  set($("notice"), answer.error ?? "");
  setTimeout(() => {
    asked.delete(button);
    use(button, true);
    if (state) showControls(state.now);
  }, 500);
}

if (page.role === "player") startBuzzer();
if (page.role === "moderator") $("controls").addEventListener("submit", moderate);
follow(page.room, { apply, show, link });
