// The desk's page. Every text of a model is set with textContent, so markup in it has no effect.
"use strict";

const $ = (id) => document.getElementById(id);
const filters = $("filters");
const state = { rows: [], count: 0, changed: -1, current: null, detail: null, asked: 0, status: null, busy: false };

function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function get(path, values) {
  const query = new URLSearchParams(values || {}).toString();
  const answer = await fetch("api/" + path + (query ? "?" + query : ""));
  if (!answer.headers.get("content-type")?.includes("json")) throw new Error(await answer.text());
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error || "the desk did not answer");
  return content;
}

function problem(text) {
  $("problem").textContent = text || "";
  $("problem").hidden = !text;
}

function chosen() {
  const values = {};
  for (const [name, value] of new FormData(filters)) if (value) values[name] = value;
  return values;
}

function remember() {
  const values = { ...chosen() };
  if (state.current) values.id = state.current;
  history.replaceState(null, "", "#" + new URLSearchParams(values).toString());
}

function restore() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const field of filters.elements) {
    if (!field.name || !values.has(field.name)) continue;
    if (field.type === "checkbox") field.checked = true;
    else {
      const value = values.get(field.name);
      if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value)) {
        field.append(new Option(value, value));
      }
      field.value = value;
    }
  }
  state.current = values.get("id");
}

async function load({ quiet = false, more = false } = {}) {
  const asked = ++state.asked;
  const offset = more ? state.rows.length : 0;
  try {
    let found = await get("rows", { ...chosen(), offset });
    let rows = more ? state.rows.concat(found.rows) : found.rows;
    // A quiet update shows as many rows as before.
    while (quiet && rows.length < Math.min(state.rows.length, found.count) && found.rows.length) {
      found = await get("rows", { ...chosen(), offset: rows.length });
      rows = rows.concat(found.rows);
    }
    if (asked !== state.asked) return;
    state.rows = rows;
    state.count = found.count;
    state.changed = found.changed;
    showList();
    problem(state.status?.problem);
  } catch (error) {
    if (asked === state.asked) problem(error.message);
  }
}

function showList() {
  const list = $("list");
  const focused = document.activeElement?.dataset?.id;
  list.replaceChildren(
    ...state.rows.map((row) => {
      const item = node("li");
      const button = node("button");
      button.type = "button";
      button.dataset.id = row.id;
      if (row.id === state.current) button.setAttribute("aria-current", "true");
      const top = node("span", null, "top");
      top.append(node("b", row.id), node("span", row.state, row.state));
      if (row.score !== null) top.append(node("span", row.score.toFixed(2)));
      if (row.disputed) top.append(node("span", "disputed"));
      top.append(node("span", row.domain));
      if (row.kinds) top.append(node("span", row.kinds.split(",").filter(Boolean).join(", ")));
      if (row.verdict) top.append(node("b", `${row.verdict} (${row.reviewer})`, row.verdict));
      button.append(top, node("span", row.instruction || row.reason, "line"), node("span", row.response, "line answer"));
      item.append(button);
      return item;
    }),
  );
  $("count").textContent = `${state.rows.length.toLocaleString()} of ${state.count.toLocaleString()} shown`;
  $("more").hidden = state.rows.length >= state.count;
  if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function section(part) {
  const box = node("section");
  box.append(node("h3", part.title));
  if (part.kind === "text") box.append(node("pre", part.text));
  else {
    const table = node("table");
    if (part.columns) {
      const head = node("tr");
      head.append(...part.columns.map((name) => node("th", name)));
      table.append(head);
    }
    for (const cells of part.rows) {
      const line = node("tr");
      line.append(...cells.map((cell, place) => node(part.kind === "pairs" && place === 0 ? "th" : "td", cell)));
      table.append(line);
    }
    box.append(table);
    if (part.note) box.append(node("p", part.note));
  }
  return box;
}

async function open(id, { focus = false, keep = false } = {}) {
  state.current = id;
  remember();
  for (const button of $("list").querySelectorAll("button")) {
    if (button.dataset.id === id) {
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({ block: "nearest" });
      if (focus) button.focus({ preventScroll: true });
    } else button.removeAttribute("aria-current");
  }
  try {
    const found = await get("candidate", { id });
    if (state.current !== id) return;
    if (keep && (!$("edit").hidden || JSON.stringify(found) === JSON.stringify(state.detail))) return;
    state.detail = found;
    showDetail(found);
  } catch (error) {
    problem(error.message);
  }
}

function showDetail(found) {
  document.body.classList.add("open");
  $("detail").hidden = false;
  $("edit").hidden = true;
  $("title").textContent = found.id;
  const score = found.score === null ? "" : `, score ${found.score.toFixed(2)}`;
  $("verdict").replaceChildren(node("b", found.state, found.state), node("span", `${score}: ${found.reason}`));
  $("people").replaceChildren(
    ...found.decisions.map((made) =>
      node("li", `${made.reviewer}: ${made.verdict}, ${new Date(made.written * 1000).toLocaleString()}`, made.verdict),
    ),
  );
  const edited = found.decisions.filter((made) => made.verdict === "edit" && made.subject === found.subject).at(-1);
  const parts = [
    { title: "Instruction", kind: "text", text: found.instruction || "not written" },
    { title: "Response", kind: "text", text: found.response || "not written" },
  ];
  if (edited) {
    parts.push({ title: `Instruction as ${edited.reviewer} wrote it`, kind: "text", text: edited.instruction });
    parts.push({ title: `Response as ${edited.reviewer} wrote it`, kind: "text", text: edited.response });
  }
  $("body").replaceChildren(...parts.concat(found.sections).map(section));
  $("calls").hidden = !found.calls;
  $("exchanges").replaceChildren();
}

async function decide(verdict, texts) {
  const found = state.detail;
  if (!found || found.id !== state.current || state.busy) return; // the next candidate is on its way
  const name = $("name").value.trim();
  if (!name) {
    $("said").textContent = "Give your name first; it is recorded with each decision.";
    $("name").focus();
    return;
  }
  state.busy = true;
  try {
    const answer = await fetch("api/decide", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ name, candidate: found.id, verdict, subject: found.subject, ...texts }),
    });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    $("said").textContent = `${found.id}: ${verdict} recorded`;
    $("edit").hidden = true;
    step.place = state.rows.findIndex((row) => row.id === found.id);
    await load({ quiet: true });
    if (verdict === "undo") await open(found.id);
    else await step(1, found.id, true);
  } catch (error) {
    $("said").textContent = error.message;
  } finally {
    state.busy = false;
  }
}

function edit() {
  if (state.detail?.id !== state.current || state.busy) return;
  const form = $("edit");
  form.elements.instruction.value = state.detail.raw.instruction;
  form.elements.response.value = state.detail.raw.response;
  form.hidden = false;
  form.elements.response.focus();
}

// Another list may no longer hold the candidate that was decided; its place tells where to go on.
async function step(by, from = state.current, onlyOpen = false) {
  let place = state.rows.findIndex((row) => row.id === from);
  if (place < 0) place = Math.max(0, step.place ?? 0) - (by > 0 ? 1 : 0);
  if (by > 0 && place + by >= state.rows.length && state.rows.length < state.count) await load({ more: true });
  const next = (onlyOpen && state.rows.slice(place + 1).find((row) => !row.verdict)) || state.rows[place + by];
  if (!next) return open(from, { focus: true });
  return open(next.id, { focus: true });
}

function fill(name, counts) {
  const field = filters.elements[name];
  const value = field.value;
  const known = new Set(Object.keys(counts));
  if (value) known.add(value);
  const options = [...known].map((each) => new Option(`${each} (${(counts[each] || 0).toLocaleString()})`, each));
  const wanted = options.map((option) => option.text).join();
  if (field.dataset.shown === wanted) return;
  field.dataset.shown = wanted;
  field.replaceChildren(field.options[0], ...options);
  field.value = value;
}

async function poll() {
  try {
    const status = await get("status");
    state.status = status;
    document.title = `${status.run} – GRA desk`;
    $("run").textContent = status.run;
    const states = Object.entries(status.facets.state).map(([name, count]) => `${count.toLocaleString()} ${name}`);
    const people = Object.values(status.facets.verdict).reduce((sum, count) => sum + count, 0);
    const under = status.finished ? "" : "under way or stopped; rows appear as they come. ";
    $("progress").textContent =
      under + (states.join(", ") || "no candidates yet") + (status.loaded ? "" : ", reading …") +
      `; ${people.toLocaleString()} decided`;
    for (const name of ["state", "step", "domain", "kind"]) fill(name, status.facets[name]);
    problem(status.problem);
    if (status.changed !== state.changed && !state.busy) {
      await load({ quiet: true });
      estimate();
      if (state.current && state.detail?.id === state.current) open(state.current, { keep: true });
    }
  } catch (error) {
    problem(`The desk does not answer (${error.message}). Start \`gra review\` again and open its new address.`);
  }
  setTimeout(poll, 1500);
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const interval = (found) => `${percent(found.value)} [${percent(found.low)}, ${percent(found.high)}]`;

async function estimate() {
  if ($("estimate").hidden) return;
  try {
    const found = await get("estimate");
    const about = `Decided along the random draw: ${found.decided} of ${found.rows.toLocaleString()} accepted rows` +
      (found.skipped ? `, ${found.skipped} more skipped and left out` : "");
    const points = Math.round(100 * found.half_width);
    $("precision").textContent = found.precision
      ? `Good rows: ${interval(found.precision)}, a 95 % interval. ${about}. ` +
        (found.needed
          ? `About ${found.needed.toLocaleString()} more ${found.needed === 1 ? "decision makes" : "decisions make"} it ±${points} points.`
          : `It is within ±${points} points.`)
      : `${about}. Choose the order “random draw” and the state “accepted”, and decide about a few dozen rows.`;
    state.estimate = found;
    const slider = $("gate");
    slider.max = Math.max(0, found.curve.length - 1);
    if (slider.dataset.set !== "1" && found.curve.length) {
      slider.value = Math.max(0, found.curve.findIndex((point) => point.gate >= (found.gate ?? 0)));
      slider.dataset.set = "1";
    }
    $("gate-field").hidden = found.curve.length < 2;
    showGate();
    const rows = found.reviewers.map((one) => [
      one.reviewer, one.auc === null ? "" : one.auc.toFixed(2), String(one.kept), String(one.not),
    ]);
    const title = "Agreement with people: the chance that a reviewer scores a kept candidate above another";
    const columns = ["reviewer", "AUC", "kept", "dropped or edited"];
    $("agreement").replaceChildren(...(rows.length ? [section({ title, kind: "table", columns, rows })] : []));
  } catch (error) {
    problem(error.message);
  }
}

const UNKNOWN = {
  below: "how many are good is not known, because some were below the present gate and are not in the random draw",
  few: "too few of them are decided along the random draw to say how good they are",
};

function showGate() {
  const found = state.estimate, point = found?.curve[Number($("gate").value)];
  if (!point) return;
  const count = (number) => number.toLocaleString();
  const every = point.precision && point.decided === point.rows;
  const good = every
    ? `all decided, ${percent(point.precision.value)} good`
    : point.precision ? `${interval(point.precision)} of them good` : UNKNOWN[point.unknown];
  const people = [
    point.dropped && `without the ${count(point.dropped)} that people dropped`,
    point.kept && `with ${count(point.kept)} that people took against the gate`,
  ].filter(Boolean).join(" and ");
  const here = found.gate === null ? "" : point.gate === found.gate ? ", the present gate" : ` (present gate: ${found.gate})`;
  $("gate-said").textContent =
    `At ${point.gate}${here}: ${count(point.rows)} scored ${point.rows === 1 ? "candidate passes" : "candidates pass"}` + (point.rows ? `, ${good}. ` : ". ") +
    `A version has ${count(point.dataset)} rows` + (people ? `, ${people}` : "") +
    `; rulings and deduplication may still change the number. ${found.command}${point.gate}`;
}

function toggleEstimate() {
  $("estimate").hidden = !$("estimate").hidden;
  $("estimate-button").setAttribute("aria-expanded", String(!$("estimate").hidden));
  estimate();
}

const KEYS = {
  g: toggleEstimate,
  k: () => decide("keep"),
  d: () => decide("drop"),
  e: edit,
  s: () => decide("skip"),
  u: () => decide("undo"),
  n: () => step(1),
  p: () => step(-1),
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  "/": () => filters.elements.text.focus(),
  "?": () => help(),
};

function help() {
  $("help").hidden = !$("help").hidden;
  $("help-button").setAttribute("aria-expanded", String(!$("help").hidden));
}

function close() {
  if (!$("edit").hidden) $("edit").hidden = true;
  else document.body.classList.remove("open");
  $("list").querySelector("[aria-current=true]")?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    document.activeElement?.blur();
    close();
    event.preventDefault();
    return;
  }
  const field = event.target.closest?.("input, select, textarea");
  if (field) {
    if (event.key === "Enter" && event.ctrlKey && field.form === $("edit")) $("edit").requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

let typing;
filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    remember();
    load();
  }, 120);
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(() => (remember(), load())));
$("list").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) open(button.dataset.id);
});
$("more").addEventListener("click", () => load({ more: true }));
$("back").addEventListener("click", close);
$("cancel").addEventListener("click", close);
$("estimate-button").addEventListener("click", toggleEstimate);
$("gate").addEventListener("input", showGate);
$("help-button").addEventListener("click", help);
$("detail").addEventListener("click", (event) => {
  const verdict = event.target.closest("[data-verdict]")?.dataset.verdict;
  if (verdict === "edit") edit();
  else if (verdict) decide(verdict);
});
$("edit").addEventListener("submit", (event) => {
  event.preventDefault();
  decide("edit", { instruction: $("edit").elements.instruction.value, response: $("edit").elements.response.value });
});
$("calls").addEventListener("click", async () => {
  const id = state.current;
  try {
    const parts = await get("calls", { id });
    if (state.current === id) $("exchanges").replaceChildren(...parts.map(section));
  } catch (error) {
    problem(error.message);
  }
});
$("name").value = localStorage.getItem("gra-desk-name") || "";
$("name").addEventListener("input", () => localStorage.setItem("gra-desk-name", $("name").value.trim()));

restore();
load().then(() => {
  if (state.current) open(state.current);
});
poll();
