// Asks the node it comes from, about once a second while somebody looks, and shows what it says. Text only ever becomes text:
// names of runs and reasons come from other people.

import { drawCurves, drawMap, element, short } from "./plots.js";

const EVERY_MS = 1000;
const PLOTS_EVERY = 2;
const OVER = { grpc: "grpc", grpc_reversed: "bell", libp2p: "p2p" };
const at = (id) => document.getElementById(id);
let looks = 0;
let seenAt = null;

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function look() {
  try {
    showStatus(await ask("status"));
    if (looks % PLOTS_EVERY === 0) {
      const [history, peers] = await Promise.all([ask("history"), ask("peers")]);
      showHistory(history);
      showPeers(peers.peers);
    }
    looks += 1;
    seenAt = new Date();
    at("problem").hidden = true;
  } catch (error) {
    const since = seenAt ? ` What is shown is from ${seenAt.toLocaleTimeString()}.` : "";
    say(at("problem"), `The node does not answer.${since}`);
    at("problem").hidden = false;
  }
}

function showStatus(status) {
  const { training, meetings, swarm, line } = status;
  say(at("run"), status.run_name);
  say(at("state"), status.state);
  at("state").dataset.state = status.state;
  say(at("doing"), status.detail || whatNow(status));
  document.title = training.validation_loss ? `${training.validation_loss.toFixed(3)} · ${status.run_name}` : `lowcomm-node ${status.state}`;
  const share = training.total_steps ? training.progress_steps / training.total_steps : 0;
  at("progress").value = Math.min(1, share);
  say(at("how-far"), `${number(training.progress_steps)} of ${number(training.total_steps)} steps (${Math.floor(100 * share)} %)`);
  const sent = total(meetings.bytes, "sent"), received = total(meetings.bytes, "received");
  showNumbers({
    "loss on held-out text": training.validation_loss ? training.validation_loss.toFixed(4) + accuracy(training) : "not measured yet",
    "loss of the swarm (median)": swarm.validation_loss ? `${swarm.validation_loss.toFixed(4)} of ${swarm.members}` : "not known",
    "does it help": verdict(training, swarm),
    "spread of the members": swarm.spread ? swarm.spread.toPrecision(3) : "not known",
    "how fast": `${number(training.tokens_per_second)} tokens/s`,
    "waited": waits(training.blocked_seconds),
    "meetings": `${number(meetings.completed)}${meetings.half ? `, HALF: ${meetings.half}` : ""}${failures(meetings.failed)}`,
    "given": `${number(training.tokens)} tokens, ${bytes(sent)}`,
    "taken": bytes(received),
    "line": { quiet: "quiet hours", saving: "saving this month's bytes" }[line.state] ?? "open",
    "reached": status.reachability || "not known yet",
    "node": `${short(status.peer_id)}, ${status.version}, up ${duration(status.uptime_seconds)}`,
  });
}

function accuracy(training) {
  return training.validation_accuracy === null ? "" : `, accuracy ${(100 * training.validation_accuracy).toFixed(1)} %`;
}

function whatNow(status) {
  if (status.state !== "training") return "";
  if (status.meetings.current) return `in a meeting: ${status.meetings.current}`;
  return status.peers_known ? `${status.peers_known} other members known` : "alone: no other member is known";
}

function verdict(training, swarm) {
  if (!training.validation_loss) return "not known yet";
  const parts = [];
  if (training.started_loss) {
    const change = training.validation_loss - training.started_loss;
    parts.push(`${Math.abs(change).toFixed(3)} ${change < 0 ? "below" : "above"} the start`);
  }
  if (swarm.validation_loss) {
    const distance = training.validation_loss - swarm.validation_loss;
    parts.push(`${Math.abs(distance).toFixed(3)} ${distance < 0 ? "better" : "worse"} than the swarm`);
  }
  return parts.join(", ") || "nothing to compare with";
}

function showNumbers(values) {
  const list = at("numbers");
  if (!list.children.length) {
    for (const name of Object.keys(values)) {
      const pair = element("div");
      pair.append(element("dt", {}, name), element("dd"));
      list.append(pair);
    }
  }
  Object.values(values).forEach((value, index) => say(list.children[index].lastChild, value));
}

function showHistory(history) {
  const times = history.unix_seconds;
  drawCurves(at("loss"), "Loss on held-out text", [
    { name: "this node", kind: "own", values: history.validation_loss },
    { name: "swarm, median of the others", kind: "swarm", values: history.swarm_loss },
  ], { unit: "nats per token", format: (value) => value.toFixed(3), times });
  drawCurves(at("spread"), "Spread between members' weights", [
    { name: "estimate", kind: "own", values: history.spread },
  ], { unit: "root mean square per parameter", format: (value) => value.toPrecision(3), times });
  drawCurves(at("bytes"), "Bytes of meetings", [
    { name: "sent", kind: "own", values: history.bytes_sent },
    { name: "received", kind: "swarm", values: history.bytes_received },
  ], { unit: "bytes since the start", format: bytes, times, thousand: 1024 });
  drawCurves(at("meetings"), "Meetings completed", [
    { name: "meetings", kind: "own", values: history.meetings },
  ], { unit: "meetings since the start", format: number, times });
}

function showPeers(peers) {
  drawMap(at("map"), peers);
  const rows = [...peers].sort((a, b) => b.meetings - a.meetings || (a.peer_id < b.peer_id ? -1 : 1)).map((peer) => {
    const row = element("tr");
    row.append(element("th", { scope: "row", title: peer.peer_id }, short(peer.peer_id)));
    const loss = peer.validation_loss ? peer.validation_loss.toFixed(3) : "-";
    const cells = [peer.link ? peer.state : "no way", OVER[peer.last_link] ?? "-", loss, number(peer.progress_steps),
      number(peer.meetings), `${duration(peer.seen_ago_seconds)} ago`];
    row.append(...cells.map((cell) => element("td", {}, cell)));
    return row;
  });
  at("members").replaceChildren(...rows);
}

function say(place, text) {
  // Only what has changed: a screen reader speaks what is written anew.
  if (place.textContent !== text) place.textContent = text;
}

function total(entries, direction) {
  return entries.filter((entry) => entry.direction === direction).reduce((sum, entry) => sum + entry.bytes, 0);
}

function waits(blocked) {
  const parts = Object.entries(blocked).filter(([, seconds]) => seconds >= 0.05).map(([cause, seconds]) => `${duration(seconds)} for ${cause}`);
  return parts.join(", ") || "never";
}

function failures(failed) {
  const parts = Object.entries(failed).map(([reason, count]) => `${count} ${reason}`);
  return parts.length ? `; failed: ${parts.join(", ")}` : "";
}

function number(value) {
  return Math.round(value).toLocaleString("en");
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toPrecision(3)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

async function go() {
  if (!document.hidden) await look();
  setTimeout(go, EVERY_MS);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
go();
