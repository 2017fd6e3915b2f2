// The two ways between a page and the server, both made for a server that restarts now and then.

// follow calls show with each new state of a room, and with whether the page is live.
export function follow(room, { apply, show, link }) {
  let state; // nothing before the first event
  let last = "";
  let events;

  function take(e, next) {
    last = e.lastEventId;
    state = next;
    show(state);
  }
  function connect() {
    const after = last ? `?after=${encodeURIComponent(last)}` : "";
    events = new EventSource(`/rooms/${room}/events${after}`);
    events.addEventListener("hello", (e) => link(true, JSON.parse(e.data).version));
    for (const whole of ["state", "reset"]) {
      events.addEventListener(whole, (e) => take(e, JSON.parse(e.data)));
    }
    events.addEventListener("event", (e) => {
      const event = JSON.parse(e.data);
      if (event.seq <= state.seq) return; // seen
      if (event.seq === state.seq + 1) return take(e, apply(state, event));
      events.close(); // something is missing, which should not happen: begin anew
      last = "";
      connect();
    });
    events.addEventListener("error", () => {
      link(false);
      if (events.readyState === EventSource.CLOSED) setTimeout(connect, 1000); // else the browser comes back by itself
    });
  }
  connect();
}

// send posts a form until there is an answer: 4xx is one, a broken connection and 5xx are not. What is sent says which
// moment it is for, so the server does it once, however often it comes.
export async function send(path, fields) {
  for (let wait = 200; ; wait = Math.min(wait * 2, 2000)) {
    try {
      const answer = await fetch(path, {
        method: "POST",
        headers: { Accept: "application/json" },
        body: new URLSearchParams(fields),
        signal: AbortSignal.timeout(8000),
      });
      if (answer.ok) return await answer.json();
      if (answer.status < 500) {
        const refused = await answer.json().catch(() => ({}));
        return { error: refused.error ?? "That did not work: please load the page again." };
      }
    } catch { /* no answer: once more */ }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
