// What a room is after an event. The server has the rules: each event says what is now, and this only puts it in.

export function apply(state, event) {
  const next = { ...state, seq: event.seq, now: event.now };
  if (event.teams) next.teams = event.teams;
  if (event.player) next.players = players(state.players, event);
  if (event.now.round !== state.now.round) next.buzzes = [];
  if (event.kind === "undone") next.buzzes = event.buzzes ?? [];
  if (event.buzz) next.buzzes = [...next.buzzes, event.buzz];
  return next;
}

function players(before, event) {
  const others = before.filter((p) => p.id !== event.player.id);
  if (event.kind === "left") return others;
  if (others.length === before.length) return [...before, event.player];
  return before.map((p) => (p.id === event.player.id ? event.player : p));
}

export function title(now) {
  if (now.phase === "over") return "The match is over";
  return now.question === 0 ? "No question yet" : `Question ${now.question}`;
}

export function says({ now, players, teams }) {
  switch (now.phase) {
    case "armed":
      return now.locked.a || now.locked.b ? "Buzzers are open for the other team." : "Buzzers are open.";
    case "answering": {
      const p = players.find((p) => p.id === now.floor);
      return `${p.name} has the floor (${teams[p.team]}).`;
    }
    case "over":
      if (now.scores.a === now.scores.b) return "A draw.";
      return `${now.scores.a > now.scores.b ? teams.a : teams.b} wins.`;
    default:
      return "Waiting for the next question.";
  }
}
