// What follows from the runs: ratios between series of one result.

const decodeAt = (record, history) =>
  record.points.find((point) => point.history === history)?.decodeTokensPerSecond.median;
const prefillAt = (record, history) =>
  record.points.find((point) => point.history === history)?.prefillTokensPerSecond.median;

/** Engine records in groups of one model and thread count, in the order of the result. */
export function groupRuns(engines) {
  const groups = new Map();
  for (const record of engines) {
    const key = `${record.model} ${record.dtype} ${record.threads}`;
    const { model, dtype, threads } = record;
    if (!groups.has(key)) groups.set(key, { model, dtype, threads, records: [] });
    groups.get(key).records.push(record);
  }
  return [...groups.values()];
}

/**
 * Ratios of a group: ours to the peer's with equal memory at the shortest and the longest history, and each budget's
 * decode at the longest history to the full cache's, ours and the peer's.
 */
export function ratiosOf({ records }) {
  const full = records.find(({ engine, memory }) => engine === "longhaul" && memory === "full");
  const peer = records.find(({ engine }) => engine !== "longhaul");
  const ratios = [];
  const add = (what, history, ours, theirs) => {
    if (ours !== undefined && theirs !== undefined)
      ratios.push({ what, history, ours, theirs, ratio: ours / theirs });
  };
  const longest = records[0].points.at(-1).history;
  const shortest = records[0].points[0].history;
  if (full && peer) {
    for (const history of new Set([shortest, longest])) {
      add("prefill, equal memory", history, prefillAt(full, history), prefillAt(peer, history));
      add("decode, equal memory", history, decodeAt(full, history), decodeAt(peer, history));
    }
  }
  for (const record of records) {
    if (record.engine !== "longhaul" || record.memory === "full") continue;
    if (full)
      add(`decode, ${record.memory} to our full`, longest, decodeAt(record, longest), decodeAt(full, longest));
    if (peer)
      add(
        `decode, ${record.memory} to the peer's full`,
        longest,
        decodeAt(record, longest),
        decodeAt(peer, longest),
      );
  }
  return ratios;
}

/** What of its ceilings a point of a full cache reaches, in percent; the ceilings are those of the same result. */
export function sharesOf({ ceilings }, { dtype, threads }, point) {
  const best = (wanted) =>
    Math.max(0, ...ceilings.filter((c) => c.threads === threads && wanted(c.name)).map((c) => c.best));
  const share = (work, rate, ceiling) =>
    work === undefined || ceiling === 0 ? undefined : (100 * work * rate.median) / ceiling;
  return {
    prefill: share(
      point.prefillFlops,
      point.prefillTokensPerSecond,
      best((name) => name.startsWith(`${dtype}.`)),
    ),
    decode: share(
      point.decodeBytes,
      point.decodeTokensPerSecond,
      best((name) => name === "read.memory"),
    ),
  };
}

/** The peak of resident memory, less what the process had before loading, to what the engine states. */
export const residentToStated = ({ bytes }) =>
  bytes.stated === undefined ? undefined : bytes.resident / bytes.stated;
