// Plots as SVG: curves over time, and the map of whom this node met. Each has the same numbers as a table beside it.

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 560, HEIGHT = 200, LEFT = 58, RIGHT = 8, TOP = 10, BOTTOM = 22;
const TABLE_ROWS = 12;
const MOST_ON_MAP = 16;

export function drawCurves(figure, title, series, { unit, format, times, thousand = 1000 }) {
  const known = series.map((one) => ({ ...one, points: pointsOf(one.values, times) })).filter((one) => one.points.length);
  const parts = partsOf(figure, title);
  parts.key.replaceChildren(...known.map((one) => element("li", {}, `${one.name}: ${format(one.points.at(-1)[1])}`)));
  if (!known.length) {
    parts.svg.replaceChildren(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing is known yet"));
    describe(parts, `${title}: nothing is known yet.`);
    parts.table.replaceChildren();
    return;
  }
  const all = known.flatMap((one) => one.points);
  const scale = scaleOf(all.map((point) => point[1]), thousand);
  const moments = all.map((point) => point[0]);
  const from = Math.min(...moments), span = Math.max(...moments) - from || 1;
  const x = (time) => LEFT + ((time - from) / span) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - scale.low) / (scale.high - scale.low)) * (HEIGHT - TOP - BOTTOM);
  const marks = scale.ticks.flatMap((tick) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
    svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
  ]);
  const ends = [[from, "start"], [from + span, "end"]].map(([time, anchor]) =>
    svg("text", { x: x(time), y: HEIGHT - 6, "text-anchor": anchor }, clock(time)));
  const curves = known.map((one) => svg("polyline", {
    class: `curve ${one.kind}`, points: one.points.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
  }));
  parts.svg.replaceChildren(parts.title, ...marks, ...ends, ...curves);
  describe(parts, `${title}, in ${unit}. ` + known.map((one) =>
    `${one.name} from ${format(one.points[0][1])} to ${format(one.points.at(-1)[1])}`).join("; ") + ".");
  fillTable(parts.table, known, times, format);
}

export function drawMap(figure, peers) {
  const title = "Whom this node met";
  const parts = partsOf(figure, title, 380, 300);
  const met = [...peers].sort((a, b) => b.meetings - a.meetings);
  const shown = met.slice(0, MOST_ON_MAP);
  const most = Math.max(1, ...shown.map((peer) => peer.meetings));
  const at = (index, radius) => {
    const angle = (2 * Math.PI * index) / Math.max(1, shown.length) - Math.PI / 2;
    return [190 + radius * Math.cos(angle), 150 + radius * Math.sin(angle)];
  };
  const ties = [], dots = [];
  shown.forEach((peer, index) => {
    const [x, y] = at(index, 105), [besideX, besideY] = at(index, 122);
    const anchor = Math.abs(besideX - 190) < 1 ? "middle" : besideX > 190 ? "start" : "end";
    if (peer.meetings) {
      const width = 1 + 6 * Math.sqrt(peer.meetings / most);
      ties.push(svg("line", { class: `tie ${peer.last_link}`, x1: 190, y1: 150, x2: x, y2: y, "stroke-width": width.toFixed(1) }));
    }
    dots.push(svg("circle", { class: `dot ${peer.state}`, cx: x, cy: y, r: 7 }));
    dots.push(svg("text", { x: besideX, y: besideY + 4, "text-anchor": anchor }, `${short(peer.peer_id)} ${peer.meetings}`));
  });
  dots.push(svg("circle", { class: "dot self", cx: 190, cy: 150, r: 10 }));
  parts.svg.replaceChildren(parts.title, ...ties, ...dots);
  const more = met.length > shown.length ? ` ${met.length - shown.length} more members are not drawn.` : "";
  parts.key.replaceChildren(
    element("li", {}, "in the middle: this node"), element("li", {}, "solid: dialled"), element("li", {}, "dashed: by bell"), element("li", {}, "dotted: libp2p"));
  describe(parts, `${title}: ` + (shown.map((peer) => `${short(peer.peer_id)} ${peer.meetings} times`).join(", ") || "nobody is known yet")
    + `.${more} Lines are thicker where there were more meetings.`);
}

export function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

export function short(peer) {
  return `…${peer.slice(-6)}`;
}

function partsOf(figure, title, width = WIDTH, height = HEIGHT) {
  if (!figure.parts) {
    const caption = element("figcaption"), key = element("ul");
    caption.append(element("strong", {}, title), key);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": `${figure.id}-words` });
    const words = svg("title", { id: `${figure.id}-words` });
    picture.append(words);
    const table = element("table");
    figure.append(caption, picture);
    if (figure.id !== "map") {
      const details = element("details");
      details.append(element("summary", {}, `${title} as a table`), table);
      figure.append(details);
    }
    figure.parts = { svg: picture, title: words, key, table };
  }
  return figure.parts;
}

function describe(parts, words) {
  parts.title.textContent = words;
  if (!parts.svg.contains(parts.title)) parts.svg.prepend(parts.title);
}

function fillTable(table, series, times, format) {
  const step = Math.max(1, Math.ceil(times.length / TABLE_ROWS));
  const picked = times.map((_, index) => index).filter((index) => (times.length - 1 - index) % step === 0);
  const head = element("tr");
  head.append(...["time", ...series.map((one) => one.name)].map((name) => element("th", { scope: "col" }, name)));
  const rows = picked.map((index) => {
    const row = element("tr");
    row.append(element("th", { scope: "row" }, clock(times[index])),
      ...series.map((one) => element("td", {}, one.values[index] ? format(one.values[index]) : "-")));
    return row;
  });
  table.replaceChildren(head, ...rows);
}

function pointsOf(values, times) {
  // 0 is what is not known.
  return values.map((value, index) => [times[index], value]).filter((point) => point[1]);
}

function scaleOf(values, thousand) {
  // Round steps in the unit that the largest value is written in.
  let low = Math.min(...values), high = Math.max(...values);
  if (high - low < 1e-12) [low, high] = [low - Math.abs(low) / 10 - 1e-9, high + Math.abs(high) / 10 + 1e-9];
  const unit = thousand ** Math.max(0, Math.floor(Math.log(high) / Math.log(thousand)) || 0);
  const rough = (high - low) / 4 / unit, power = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(tick);
  return { low, high, ticks };
}

function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}
