// The page of one device. All text from the device goes in as text, never as markup; the session's number lives in a
// variable, so that nothing of value is in the browser's storage.
"use strict";

const at = (id) => document.getElementById(id);
const device = { csrf: "", status: null, modes: [], transitions: [], operations: [], source: null };

class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

async function ask(method, path, body, headers = {}) {
  const answer = await fetch(path, {
    method, credentials: "same-origin", cache: "no-store", redirect: "error",
    headers: {
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      ...(method === "GET" ? {} : { "X-CSRF-Token": device.csrf }), ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  const found = text ? JSON.parse(text) : null;
  if (!answer.ok) throw new Refused(answer.status, found && found.detail ? found.detail : `HTTP ${answer.status}`);
  return found;
}

function put(parent, name, text, attributes = {}) {
  const one = document.createElement(name);
  if (text !== undefined) one.textContent = text;
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  parent.append(one);
  return one;
}

function draw(parent, name, attributes, text) {
  const one = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (text !== undefined) one.textContent = text;
  parent.append(one);
  return one;
}

const percent = (share) => `${(share * 100).toFixed(2)} %`;
// Whether it is measured, and whether a figure in it is assumed; and a star for the latter where there is little room.
const basis = (origin) => `${origin.basis}${origin.assumed ? ", assumed" : ""}`;
const star = (origin) => (origin && origin.assumed ? "*" : "");
const figure = (value, unit) => (value === null ? "–" : `${Number(value.toPrecision(3))} ${unit}`);

function sure(question) {
  at("question").textContent = question;
  at("sure").returnValue = "";
  at("sure").showModal();
  at("yes").focus();
  return new Promise((resolve) => {
    at("sure").addEventListener("close", () => resolve(at("sure").returnValue === "yes"), { once: true });
  });
}

async function act(work) {
  at("said").textContent = "";
  try {
    await work();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return enter();
    at("said").textContent = error.message;
  }
  await refresh();
}

// The way between two modes over the plan's paths, the fewest legs; each may be walked both ways.
function way(from, to) {
  const seen = new Map([[from, []]]);
  for (const queue = [from]; queue.length;) {
    const mode = queue.shift();
    if (mode === to) return seen.get(mode);
    device.transitions.forEach((move, index) => {
      for (const [a, b, back] of [[move.from, move.to, false], [move.to, move.from, true]]) {
        if (a === mode && !seen.has(b)) { seen.set(b, [...seen.get(a), { index, back }]); queue.push(b); }
      }
    });
  }
  return [];
}

// Where the device stands on the chart: which path, and which share of it.
function position() {
  const { status, operations, transitions } = device;
  const walk = operations.find((one) => one.id === status.operation);
  if (!walk) {
    const rest = transitions.findIndex((move) => move.from === status.mode);
    if (rest >= 0) return { index: rest, share: 0 };
    return { index: transitions.findIndex((move) => move.to === status.mode), share: 1 };
  }
  const legs = way(walk.from, walk.to);
  let left = status.progress * legs.reduce((sum, leg) => sum + transitions[leg.index].bytes_written, 0);
  for (const leg of legs) {
    const size = transitions[leg.index].bytes_written || 1;
    if (left <= size || leg === legs.at(-1)) {
      const share = Math.min(1, left / size);
      return { index: leg.index, share: leg.back ? 1 - share : share };
    }
    left -= size;
  }
  return { index: -1, share: 0 };
}

function chart() {
  const svg = at("chart");
  svg.replaceChildren();
  const moves = device.transitions;
  if (!moves.length) return;
  // Drawn in the page's own pixels, so that letters have one size on a phone and on a desk.
  const [wide, tall] = [Math.max(260, svg.clientWidth), 220];
  svg.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  const [left, right, top, bottom] = [68, wide - 52, 16, tall - 40];
  const width = (right - left) / moves.length;
  const all = moves.flatMap((move) => move.waypoints.map((point) => point.accuracy));
  const low = Math.max(0, Math.min(...all) - 0.005), high = Math.min(1, Math.max(...all) + 0.005);
  const y = (accuracy) => bottom - ((accuracy - low) / (high - low || 1)) * (bottom - top);
  const power = Object.fromEntries(device.modes.map((mode) => [mode.name, mode.power_w]));
  const known = Object.values(power).filter((value) => value !== null);
  const most = Math.max(...known, 0) || 1;
  const watt = (value) => bottom - (value / most) * (bottom - top) * 0.9;
  for (const accuracy of [low, high]) draw(svg, "text", { x: left - 10, y: y(accuracy) + 4, "text-anchor": "end" }, percent(accuracy));
  draw(svg, "line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" });
  moves.forEach((move, index) => {
    const begin = left + index * width;
    const x = (written) => begin + (written / (move.bytes_written || 1)) * width;
    draw(svg, "line", { x1: begin, x2: begin, y1: top, y2: bottom, class: "axis" });
    draw(svg, "text", { x: begin, y: bottom + 18, "text-anchor": "middle" }, move.from);
    draw(svg, "polyline", {
      class: "accuracy", points: move.waypoints.map((point) => `${x(point.written_bytes)},${y(point.accuracy)}`).join(" "),
    });
    if (power[move.from] !== null && power[move.to] !== null) {
      draw(svg, "line", {
        class: "power", x1: begin, x2: begin + width, y1: watt(power[move.from]), y2: watt(power[move.to]),
      });
    }
  });
  draw(svg, "line", { x1: right, x2: right, y1: top, y2: bottom, class: "axis" });
  draw(svg, "text", { x: right, y: bottom + 18, "text-anchor": "middle" }, moves.at(-1).to);
  if (known.length) draw(svg, "text", { x: right + 10, y: watt(most) + 4 }, figure(most, "W"));
  const here = position();
  if (here.index < 0) return;
  const move = moves[here.index], written = here.share * move.bytes_written;
  let accuracy = move.waypoints[0].accuracy;
  move.waypoints.forEach((point, place) => {
    const before = move.waypoints[place - 1];
    if (before && written >= before.written_bytes) {
      const share = (written - before.written_bytes) / (point.written_bytes - before.written_bytes || 1);
      accuracy = before.accuracy + Math.min(1, share) * (point.accuracy - before.accuracy);
    }
  });
  draw(svg, "circle", {
    class: "here", r: 8, cx: left + (here.index + here.share) * width, cy: y(accuracy), "data-share": here.share.toFixed(3),
  });
}

function show() {
  const { status, modes, operations } = device;
  at("device").textContent = status.device;
  at("mode").textContent = status.mode;
  at("phase").textContent = status.target ? `${status.phase} to ${status.target}` : status.phase;
  const until = status.decision.expires_in_s === null ? "" : `, for ${Math.round(status.decision.expires_in_s)} s more`;
  at("why").textContent = `Decided by ${status.decision.rank}: ${status.decision.source} (${status.decision.reason})${until}`;
  const { power_w: watts, provenance } = status.power;
  at("power").textContent = watts === null ? "Power not known" : `${figure(watts, "W")}, ${basis(provenance.power_w)}`;
  at("walk").hidden = status.operation === null;
  at("progress").value = status.progress;
  for (const button of document.querySelectorAll("[data-act]")) {
    const phases = { pause: ["walking"], resume: ["paused"], cancel: ["walking", "paused"] };
    button.disabled = !phases[button.dataset.act].includes(status.phase);
  }
  const origins = new Set(modes.map((mode) => mode.provenance.power_w).filter(Boolean).map(basis));
  at("basis").textContent = origins.size ? [...origins].join(" or ") : "not known";
  // Rows are kept while they fit, so that the keyboard's focus stays where it is.
  const rows = at("modes");
  if ([...rows.rows].map((row) => row.dataset.mode).join() !== modes.map((mode) => mode.name).join()) {
    rows.replaceChildren();
    for (const mode of modes) {
      const row = put(rows, "tr", undefined, { "data-mode": mode.name });
      put(row, "td", mode.name, { title: mode.description });
      const button = put(put(row, "td"), "button", "Switch", { "aria-label": `Switch to ${mode.name}` });
      for (let cell = 0; cell < 4; cell++) put(row, "td");
      button.addEventListener("click", () => choose(mode.name));
    }
  }
  modes.forEach((mode, index) => {
    const row = rows.rows[index];
    row.classList.toggle("here", mode.name === status.mode);
    const cells = [
      ["accuracy", percent(mode.accuracy)], ["power_w", figure(mode.power_w, "W")],
      ["energy_j_per_inference", figure(mode.energy_j_per_inference, "J")], ["latency_ms", figure(mode.latency_ms, "ms")],
    ];
    cells.forEach(([field, text], cell) => {
      const origin = mode.provenance[field];
      row.cells[cell + 2].textContent = text + star(origin);
      row.cells[cell + 2].title = origin ? `${origin.basis}: ${origin.source}` : "";
    });
    row.querySelector("button").disabled = mode.name === status.mode && status.target === null;
  });
  at("assumed").hidden = !modes.some((mode) => Object.values(mode.provenance).some(star));
  list("holds", status.holds, (hold) => `Hold on ${hold.mode} by ${hold.who}: ${hold.reason || "no reason given"}`, "No holds", release);
  list("triggers", status.triggers, (one) => `${one.name} → ${one.mode}: ${one.error || (one.active ? "active" : "inactive")}`, "No triggers");
  list("operations", operations.slice(-6).reverse(), (one) => `${one.from} → ${one.to}: ${one.outcome || one.phase}${one.reason ? ` (${one.reason})` : ""}`, "None yet");
  chart();
}

function list(id, items, words, none, remove) {
  at(id).replaceChildren();
  if (!items.length) put(at(id), "li", none, { class: "none" });
  for (const item of items) {
    const line = put(at(id), "li");
    put(line, "span", words(item));
    if (remove) put(line, "button", "End").addEventListener("click", () => remove(item));
  }
}

async function choose(mode) {
  if (!(await sure(`Switch from ${device.status.mode} to ${mode}?`))) return;
  await act(() => ask("POST", "/v1/switch", { mode }, { "Idempotency-Key": key() }));
}

// The page may come over plain HTTP on loopback, where browsers offer randomUUID all the same; elsewhere it is TLS.
const key = () => crypto.randomUUID();

async function release(hold) {
  if (await sure(`End the hold on ${hold.mode} by ${hold.who}?`)) await act(() => ask("DELETE", `/v1/holds/${encodeURIComponent(hold.id)}`));
}

let waiting = null, again = false;
async function refresh() {
  if (waiting) { again = true; return waiting; }
  waiting = (async () => {
    do {
      again = false;
      [device.status, device.modes, device.operations] = await Promise.all([
        ask("GET", "/v1/status"), ask("GET", "/v1/modes"), ask("GET", "/v1/operations"),
      ]);
      show();
    } while (again);
  })();
  try {
    await waiting;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) enter();
    else at("link").textContent = error.message;
  } finally {
    waiting = null;
  }
}

function listen() {
  if (device.source) device.source.close();
  const source = device.source = new EventSource("/v1/events");
  source.onopen = () => { at("link").textContent = "live"; at("link").classList.remove("lost"); refresh(); };
  source.onerror = () => { at("link").textContent = "connection lost"; at("link").classList.add("lost"); };
  for (const kind of ["operation", "decision", "hold", "trigger", "safety", "power", "push", "fault", "gap"]) {
    source.addEventListener(kind, () => refresh());
  }
}

function enter() {
  if (device.source) device.source.close();
  at("board").hidden = at("leave").hidden = true;
  at("enter").hidden = false;
  at("link").textContent = "";
  at("token").focus();
}

async function begin(session) {
  device.csrf = session.csrf;
  device.transitions = await ask("GET", "/v1/transitions");
  at("enter").hidden = true;
  at("board").hidden = false;
  at("leave").hidden = session.csrf === "";
  await refresh();
  listen();
}

at("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("refused").textContent = "";
  const token = at("token").value.trim();
  at("token").value = "";
  try {
    await begin(await ask("POST", "/v1/session", undefined, { Authorization: `Bearer ${token}` }));
  } catch (error) {
    at("refused").textContent = error.message;
  }
});
at("leave").addEventListener("click", async () => { await ask("DELETE", "/v1/session"); device.csrf = ""; enter(); });
at("auto").addEventListener("click", async () => {
  if (await sure("Give control back to holds, triggers and the profile?")) await act(() => ask("POST", "/v1/switch", { mode: "auto" }));
});
for (const button of document.querySelectorAll("[data-act]")) {
  button.addEventListener("click", () => act(() => ask("POST", `/v1/operations/${encodeURIComponent(device.status.operation)}/${button.dataset.act}`)));
}
addEventListener("resize", () => { if (device.status) chart(); });
ask("GET", "/v1/session").then(begin, enter);
