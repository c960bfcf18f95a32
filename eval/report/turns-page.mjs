// The page of a long conversation: what each turn takes, and when a memory has earned its set-up.
import { figure, figures, htmlDocument, machineText, table } from "../../bench/report/document.mjs";
import { binaryBytes, duration, grouped } from "../../bench/report/numbers.mjs";
import { linePlot } from "../../bench/report/plots.mjs";
import { escapeText as e } from "../../bench/report/svg.mjs";
import { breakEvenTurn, cumulative, movingMedian } from "../turns/account.mjs";
import { breakEvenText } from "./terminal.mjs";
import { policyTexts, share } from "./text.mjs";

const TURN_AXIS = { label: "turn", kind: "linear", format: String };
/** Neighbouring turns whose median is drawn. */
const WIDTH = 15;

const nameOf = ({ name, budget }) => (budget === null ? `${name} KV` : `${name} ${budget}`);

function breakEvenSentence(series, full) {
  const turn = breakEvenTurn(series, full);
  const turns = series.turnMs.length;
  const name = nameOf(series);
  const totals = `${duration(cumulative(series).at(-1) / 1e3)} in all, full KV ${duration(cumulative(full).at(-1) / 1e3)}`;
  if (turn === undefined) return `${name} has not caught up with full KV after ${turns} turns (${totals}).`;
  const since = turn === 0 ? "from the beginning on" : `from turn ${turn} on`;
  return `${name} is ahead of full KV ${since} (${totals}).`;
}

/** @param {object} result as `npm run eval -- --turns` writes it */
export function renderTurns(result) {
  const { series, settings, model, historyTokens, switched, loadAverage } = result;
  const [full] = series;
  const drawn = (values) => values.map((value, x) => ({ x, value }));
  const total = linePlot({
    title: "Time in all against turns",
    yLabel: "seconds in all",
    x: TURN_AXIS,
    series: series.map((one, style) => ({
      name: nameOf(one),
      style,
      marks: false,
      points: drawn(cumulative(one).map((ms) => ms / 1e3)),
    })),
  });
  const each = linePlot({
    title: "Time of a turn against turns",
    yLabel: "milliseconds a turn",
    x: TURN_AXIS,
    series: series.map((one, style) => ({
      name: nameOf(one),
      style,
      marks: false,
      points: drawn(movingMedian(one.turnMs, WIDTH)),
    })),
  });
  const head = [
    "memory",
    "set-up",
    "median turn",
    "10 to 90 %",
    "in all",
    "per turn in all",
    "ahead of full KV",
    "right",
    "peak KV",
    "forwarded",
  ];
  const rows = series.map((one) => {
    const sum = cumulative(one).at(-1);
    return [
      nameOf(one),
      duration(one.setUpMs / 1e3),
      duration(one.turn.median / 1e3),
      `${duration(one.turn.low / 1e3)} to ${duration(one.turn.high / 1e3)}`,
      duration(sum / 1e3),
      duration(sum / one.turnMs.length / 1e3),
      breakEvenText(one, full),
      share(one.right / one.turnMs.length),
      binaryBytes(one.peakBytes),
      one.forwardedTokens === null ? "unknown" : grouped(one.forwardedTokens),
    ];
  });
  const policies = policyTexts(series.map(({ policy }) => policy)).map((text) => `<li>${e(text)}</li>`);
  const sentences = series.slice(1).map((one) => breakEvenSentence(one, full));
  const body = `<p>A conversation of ${grouped(historyTokens)} tokens is taken in (the set-up), and then goes on for ${settings.turns} turns, each a question and its answer. ${switched} of the turns go over to another topic. Full KV remembers all of it and goes on from where it is; the other memories keep only so many rows per KV head and layer. All get the same turns, one after the other, and every turn stays in the conversation.</p>
<ul>${policies.join("")}</ul>
<h2>Time in all</h2>
<p>Each line begins at the time of the set-up. Where a line crosses below that of full KV, that memory has earned its set-up. ${e(sentences.join(" "))}</p>
${figures([figure("Set-up and turns, added up", total)])}
<h2>Time of a turn</h2>
<p>From asking to the end of the answer, finding the right episode included: the median of ${WIDTH} turns around each. Full KV reads more rows with every turn.</p>
${figures([figure("One turn", each)])}
<h2>In numbers</h2>
${table("Forwarded: tokens until the history was taken in", head, rows)}`;
  return htmlDocument({
    title: `longhaul eval, ${settings.turns} turns, ${model.name}`,
    heading: `${settings.turns} turns with ${model.name}`,
    subtitle: `${machineText(result)}. Threads: ${settings.threads}. Load average ${loadAverage.before.join(" ")} before, ${loadAverage.after.join(" ")} after: above 0, others were at work too.`,
    body,
  });
}
