// The desk's page. Every text of a model is set with textContent, so markup in it has no effect.
"use strict";

const $ = (id) => document.getElementById(id);
const filters = $("filters");
const state = { rows: [], count: 0, changed: -1, current: null, detail: null, asked: 0, status: null, busy: false,
  made: JSON.parse(sessionStorage.getItem(MADE) || "[]"), drafts: new Map(), start: null, missed: "" };

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

// What was said about a candidate goes away with it; without an open one there is another place for it.
function say(text) {
  $("said").textContent = $("hint-said").textContent = text || "";
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
    if (!field.name) continue;
    // What an address does not name goes back to its default.
    const value = values.get(field.name) ?? field.options?.[0].value ?? "";
    if (field.type === "checkbox") field.checked = values.has(field.name);
    else {
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
      if (row.verdict) top.append(node("b", `${row.verdict} (${person(row.reviewer)})`, row.verdict));
      else if (row.skipped) top.append(node("b", "skipped"));
      if (state.drafts.has(row.id)) top.append(node("b", "unsaved text", "edit"));
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

async function open(id, { focus = false, keep = false, said = "" } = {}) {
  if (!keep) say([said, stash()].filter(Boolean).join(". "));
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
    if (!keep) $("detail").scrollTop = document.querySelector("main").scrollTop = 0;
  } catch (error) {
    problem(error.message);
  }
}

function showDetail(found) {
  document.body.classList.add("open");
  $("detail").hidden = false;
  $("hint").hidden = true;
  $("edit").hidden = true;
  $("title").textContent = found.id;
  const score = found.score === null ? "" : `, score ${found.score.toFixed(2)}`;
  $("verdict").replaceChildren(node("b", found.state, found.state), node("span", `${score}: ${found.reason}`));
  const stands = found.last.findLast((made) => made.verdict !== "skip");
  if (stands) {
    const now = `${stands.verdict} (${person(stands.reviewer)})`;
    $("verdict").append(node("span", "; decided: "), node("b", now, stands.verdict));
  }
  showPeople();
  const parts = ["Instruction", "Response"].flatMap((title) => {
    const name = title.toLowerCase();
    const model = { title, kind: "text", text: found[name] || "not written" };
    if (!found.edited || found.edited[name] === found[name]) return [model];
    const by = `${title}, edited by ${person(found.edited.reviewer)}`;
    return [{ title: by, kind: "text", text: found.edited[name] }, { ...model, title: `${title} before the edit` }];
  });
  $("body").replaceChildren(...parts.concat(found.sections).map(section));
  $("calls").hidden = !found.calls;
  $("exchanges").replaceChildren();
}

const person = (reviewer) => reviewer.replace(/^human:/, "");

function showPeople() {
  const found = state.detail;
  if (!found) return;
  $("people").replaceChildren(
    ...found.decisions.map((made) =>
      node("li", `${person(made.reviewer)}: ${made.verdict}, ${new Date(made.written * 1000).toLocaleString()}`,
        made.verdict),
    ),
  );
  const me = `human:${$("name").value.trim()}`;
  $("undo-this").hidden = !found.last.some((made) => made.reviewer === me);
}

// Another list may no longer hold the candidate that was decided; its place tells where to go on.
async function step(by, { from = state.current, onlyOpen = false, said = "" } = {}) {
  let place = state.rows.findIndex((row) => row.id === from);
  if (place < 0) place = Math.max(0, from ? step.place ?? 0 : 0) - (by > 0 || !from ? 1 : 0);
  const laterOpen = () => state.rows.slice(place + 1).find((row) => !row.verdict);
  while (by > 0 && state.rows.length < state.count && (onlyOpen ? !laterOpen() : place + by >= state.rows.length)) {
    const before = state.rows.length;
    await load({ more: true });
    if (state.rows.length === before) break;
  }
  // After a decision it stays where no open row follows: the next key must not decide about a decided row.
  const next = onlyOpen ? laterOpen() : state.rows[from ? place + by : 0];
  const last = place + 1 >= state.rows.length;
  const end = by < 0 ? "This is the first row of this list" : "That was the last row of this list";
  const about = next ? "" : onlyOpen && !last ? "No open row follows in this list" : end;
  const sentence = [said, about].filter(Boolean).join(". ");
  if (!next && !from) return say("The list is empty.");
  return open(next ? next.id : from, { focus: true, said: sentence });
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
      `; ${people.toLocaleString()} decided` + (people ? `, ${status.rows.toLocaleString()} rows after decisions` : "");
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

const KEYS = {
  g: toggleEstimate,
  k: () => decide("keep"),
  d: () => decide("drop"),
  e: () => edit(),
  s: () => decide("skip"),
  u: () => undo(),
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
  if (!$("edit").hidden) say(stash());
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
  const moves = field?.type === "range" && /^(Arrow|Page|Home|End)/.test(event.key);
  if (moves || (field && !["range", "checkbox"].includes(field.type))) {
    if (event.key === "Enter" && event.ctrlKey && field.form === $("edit")) $("edit").requestSubmit();
    if (event.key === "Enter" && field === $("name")) field.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  // A key that is held down decides once.
  if (!event.repeat || event.key.startsWith("Arrow")) KEYS[event.key]();
});

let typing;
filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    remember();
    load();
  }, 120);
});
// A choice with the mouse leaves the keys to the rows; by keyboard the field keeps them.
let pointed = false;
filters.addEventListener("pointerdown", () => (pointed = true));
filters.addEventListener("keydown", () => (pointed = false));
filters.addEventListener("change", (event) => pointed && event.target.tagName === "SELECT" && event.target.blur());
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(() => (remember(), load())));
$("list").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) open(button.dataset.id);
});
$("more").addEventListener("click", () => load({ more: true }));
$("back").addEventListener("click", close);
$("cancel").addEventListener("click", close);
$("again").addEventListener("click", () => edit({ again: true }));
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("undo-this").addEventListener("click", () => {
  const found = ready("undo");
  if (found) undo({ name: $("name").value.trim(), candidate: found.id, subject: found.subject });
});
addEventListener("beforeunload", (event) => {
  if (unsaved() || state.drafts.size) event.preventDefault();
});
$("estimate-button").addEventListener("click", toggleEstimate);
$("gate").addEventListener("input", showGate);
$("help-button").addEventListener("click", help);
$("detail").addEventListener("click", (event) => {
  const verdict = event.target.closest("[data-verdict]")?.dataset.verdict;
  if (verdict === "edit") edit();
  else if (verdict === "undo") undo();
  else if (verdict) decide(verdict);
});
$("edit").addEventListener("submit", (event) => {
  event.preventDefault();
  decide("edit", written());
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
$("name").addEventListener("input", () => {
  localStorage.setItem("gra-desk-name", $("name").value.trim());
  say("");
  showPeople();
});

function follow() {
  restore();
  load().then(() => {
    if (state.current) open(state.current);
  });
}

addEventListener("hashchange", follow); // another address was typed or pasted
follow();
poll();
