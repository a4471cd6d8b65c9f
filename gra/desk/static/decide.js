// Decisions of the desk's page: record, undo, and the editor. It shares its names with desk.js, which runs after it.
"use strict";

const MADE = "gra-desk-made " + location.pathname; // this tab's decisions, also after the page is loaded again

// Returns the candidate that a key is about; says why where there is none.
function ready(what) {
  const found = state.detail;
  if (!state.busy && found && found.id === state.current) return found;
  if (!state.busy && !state.current) say("No candidate is open: choose one in the list, or press ↓.");
  else {
    if (state.busy) state.missed = what;
    say(`The next candidate was not on the screen yet: ${what} was ignored.`);
  }
  return null;
}

// What was just said would hide that a key came too early.
function sayMissed(said) {
  if (state.missed) say(`${said}. A key came before the next candidate was shown: ${state.missed} was ignored.`);
}

async function post(body) {
  const answer = await fetch("api/decide", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const content = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(content.error), { refused: answer.status === 409 });
  return content;
}

async function decide(verdict, texts) {
  const found = ready(verdict);
  if (!found) return;
  const name = $("name").value.trim();
  if (!name) {
    say("Give your name first; it is recorded with each decision.");
    $("name").focus();
    return;
  }
  state.busy = true;
  const asked = { name, candidate: found.id, subject: found.subject };
  const edited = verdict === "keep" && found.edited; // what is shown is what is kept
  try {
    const made = await post({ ...asked, ...(edited ? { verdict: "edit", ...found.edited.raw } : { verdict, ...texts }) });
    let said = `${found.id}: ${made.verdict} recorded`;
    if (edited) said = `${found.id}: keep of the edited text recorded`;
    else if (made.verdict !== verdict) said += ", because nothing was changed";
    state.made.push({ ...asked, verdict: made.verdict });
    sessionStorage.setItem(MADE, JSON.stringify(state.made));
    if (verdict === "edit") {
      $("edit").hidden = true;
      state.drafts.delete(found.id);
    }
    step.place = state.rows.findIndex((row) => row.id === found.id);
    await load({ quiet: true });
    estimate();
    await step(1, { from: found.id, onlyOpen: true, said });
    sayMissed(said);
  } catch (error) {
    say(error.message);
  } finally {
    state.busy = false;
    state.missed = "";
  }
}

// Without an argument: the last decision made in this tab, wherever it was.
async function undo(asked = state.made.at(-1)) {
  if (state.busy) return ready("undo");
  if (!asked) return say("Nothing was decided in this tab yet. Open a row that you decided: it has a button to undo that.");
  const place = state.made.findLastIndex((made) => made.candidate === asked.candidate && made.name === asked.name);
  const forget = () => {
    if (place >= 0) state.made.splice(place, 1);
    sessionStorage.setItem(MADE, JSON.stringify(state.made));
  };
  state.busy = true;
  try {
    await post({ ...asked, verdict: "undo" });
    const undone = `${asked.candidate}: ${state.made[place]?.verdict ?? "decision"} undone`;
    forget();
    const stands = state.made.findLast((made) => made.candidate === asked.candidate && made.name === asked.name);
    const said = stands ? `${undone}; your ${stands.verdict} before it stands` : undone;
    await load({ quiet: true });
    estimate();
    await open(asked.candidate, { focus: true, said });
    sayMissed(said);
  } catch (error) {
    if (error.refused) forget();
    say(`${asked.candidate}: ${error.message}`);
  } finally {
    state.busy = false;
    state.missed = "";
  }
}

function written() {
  const { instruction, response } = $("edit").elements;
  return { instruction: instruction.value, response: response.value };
}

function write(texts) {
  $("edit").elements.instruction.value = texts.instruction;
  $("edit").elements.response.value = texts.response;
}

const unsaved = () => !$("edit").hidden && JSON.stringify(written()) !== JSON.stringify(state.start);

function edit({ again = false } = {}) {
  const found = ready("edit");
  if (!found) return;
  if (found.closed) return say(found.closed);
  const form = $("edit");
  if (again && state.drafts.delete(found.id)) showList();
  else if (!form.hidden) return form.elements.response.focus();
  const draft = state.drafts.get(found.id);
  write(found.edited ? found.edited.raw : found.raw);
  state.start = written(); // a text field may change line ends
  if (draft) write(draft);
  $("again").hidden = !draft;
  say(draft ? "This is your unsaved text." : "");
  form.hidden = false;
  form.elements.response.focus();
}

// Closes the editor. Text that was not saved stays with its candidate; returns a sentence about it.
function stash() {
  if ($("edit").hidden) return "";
  const kept = unsaved(), id = state.detail.id; // another candidate may be the current one already
  $("edit").hidden = true;
  if (kept) state.drafts.set(id, written());
  if (kept || state.drafts.delete(id)) showList();
  return kept ? `Your unsaved text of ${id} is kept, and Edit (e) shows it again` : "";
}
