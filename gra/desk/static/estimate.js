// How good the rows are: the estimate, the gate on its slider, the reviewers. It shares its names with desk.js, which
// runs after it.
"use strict";

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
