"use strict";

const $ = (id) => document.getElementById(id);
const { newest, shown, version } = document.body.dataset;
const list = $("presses");
const named = $("name");

function remember(value) {
  try { localStorage.setItem("name", value); } catch { /* a browser may forbid it */ }
}
try { named.value = localStorage.getItem("name") || ""; } catch { /* as above */ }

function localTime(at) {
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function show(press) {
  if (list.querySelector(`[data-id="${press.id}"]`)) return;
  const item = document.createElement("li");
  item.dataset.id = press.id;
  const parts = [["span", "number", press.id], ["span", "name", press.name], ["time", "", localTime(press.at)]];
  for (const [tag, cls, text] of parts) {
    const part = document.createElement(tag);
    part.className = cls;
    part.textContent = text;
    item.append(part, " ");
  }
  item.querySelector("time").dateTime = press.at;
  list.prepend(item);
  while (list.children.length > Number(shown)) list.lastElementChild.remove();
  $("nobody").hidden = true;
}

function say(text, won) {
  $("place").textContent = text;
  $("place").classList.toggle("won", won);
}

let pressing = false;
async function press() {
  if (pressing) return;
  pressing = true;
  $("press").classList.add("down");
  remember(named.value);
  try {
    const answer = await fetch("/press", {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams({ name: named.value }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const mine = await answer.json();
    say(`${mine.name}, you took place ${mine.id}.`, true);
  } catch (err) {
    say(`That did not count: ${err.message}`, false);
  } finally {
    pressing = false;
    $("press").classList.remove("down");
  }
}

$("buzzer").addEventListener("submit", (e) => { e.preventDefault(); press(); });
document.addEventListener("keydown", (e) => {
  if (e.key !== " " || e.repeat || e.ctrlKey || e.altKey || e.metaKey) return;
  if (e.target.closest("input, button, a, summary")) return;
  e.preventDefault();
  press();
});

for (const time of list.querySelectorAll("time")) time.textContent = localTime(time.dateTime);

let events;
function watch(after) {
  events = new EventSource(`/events?after=${after}`);
  events.addEventListener("hello", (e) => {
    $("link").textContent = "live";
    $("link").classList.add("live");
    const now = JSON.parse(e.data).version;
    $("version").textContent = now;
    $("reload").hidden = now === version;
  });
  events.addEventListener("press", (e) => show(JSON.parse(e.data)));
  events.addEventListener("reset", () => { list.replaceChildren(); $("nobody").hidden = false; });
  events.addEventListener("error", () => {
    $("link").textContent = "reconnecting";
    $("link").classList.remove("live");
    if (events.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
    const last = list.firstElementChild ? list.firstElementChild.dataset.id : 0;
    setTimeout(() => watch(last), 2000);
  });
}
watch(newest);
