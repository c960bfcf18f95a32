import { ATTENTION_KINDS, type AttentionKind, type PlannedModel, type SequenceParallelCosts } from "./costs.js";

/** How one degree is carried out: Ulysses over `ulysses` neighbouring devices, a ring over `ring` such sets. */
export interface KindChoice {
  readonly kind: AttentionKind;
  readonly ulysses: number;
  readonly ring: number;
  /** Communication of one token, over all layers. */
  readonly msPerToken: number;
}

const MIB = 2 ** 20;

/**
 * Whether `degree` devices can exchange heads for rows: each gets as many query heads, and KV heads are divided
 * evenly or each is repeated on as many devices.
 */
export function allowsUlysses(
  { heads, kvHeads }: Pick<PlannedModel, "heads" | "kvHeads">,
  degree: number,
): boolean {
  return heads % degree === 0 && (kvHeads % degree === 0 || degree % kvHeads === 0);
}

/** The largest degree of Ulysses inside a group of `degree`. */
export function largestUlysses(model: PlannedModel, degree: number): number {
  let ulysses = degree;
  while (!allowsUlysses(model, ulysses)) ulysses /= 2;
  return ulysses;
}

/**
 * Bytes of one token that a device puts into the collectives of all layers, when its sequence is spread over
 * `degree` devices. Ulysses: the tensors Q, K, V and O on the device, whole, as FlexSP counts them. Ring and
 * all-gather: the keys and values of the others, and in training their gradients in f32 too.
 */
export function bytesPerToken(model: PlannedModel, kind: AttentionKind, degree: number, ulysses = degree) {
  const { layers, heads, kvHeads, headDim, bytesPerElement = 2, pass = "training" } = model;
  const training = pass === "training";
  const ring = degree / ulysses;
  // With fewer KV heads than devices each device gets a copy of one.
  const sharedKv = Math.max(kvHeads, ulysses);
  const exchanged = (2 * heads * headDim + 2 * sharedKv * headDim) * bytesPerElement * (training ? 2 : 1);
  const perElement = training ? 2 * bytesPerElement + 4 : bytesPerElement;
  const passed = 2 * kvHeads * headDim * (degree - 1) * perElement;
  switch (kind) {
    case "ulysses":
      return { allToAll: (layers * exchanged) / degree, neighbours: 0 };
    case "ring":
    case "all-gather":
      return { allToAll: 0, neighbours: (layers * passed) / degree };
    case "hybrid":
      return {
        allToAll: (layers * exchanged) / degree,
        neighbours: (layers * 2 * (sharedKv / ulysses) * headDim * (ring - 1) * perElement) / ring,
      };
  }
}

/**
 * The kind that communicates a token fastest on `degree` devices, of those that head counts and known
 * bandwidths allow; on a tie the first of ATTENTION_KINDS. Undefined when there is none.
 */
export function chooseKind(
  costs: SequenceParallelCosts,
  degree: number,
  kinds: readonly AttentionKind[] = ATTENTION_KINDS,
): KindChoice | undefined {
  if (degree === 1) return { kind: "ulysses", ulysses: 1, ring: 1, msPerToken: 0 };
  let best: KindChoice | undefined;
  for (const kind of ATTENTION_KINDS) {
    const choice = kinds.includes(kind) ? evaluate(costs, kind, degree) : undefined;
    if (choice !== undefined && (best === undefined || choice.msPerToken < best.msPerToken)) best = choice;
  }
  return best;
}

function evaluate(costs: SequenceParallelCosts, kind: AttentionKind, degree: number): KindChoice | undefined {
  const { model, bandwidth } = costs;
  const ulysses = kind === "ulysses" || kind === "hybrid" ? largestUlysses(model, degree) : 1;
  if (kind === "ulysses" && ulysses !== degree) return undefined;
  // A hybrid of one part is that part.
  if (kind === "hybrid" && (ulysses === degree || ulysses === 1)) return undefined;
  const bytes = bytesPerToken(model, kind, degree, ulysses);
  // The ring of a hybrid crosses the whole group, its all-to-all does not.
  const rates = kind === "all-gather" ? bandwidth.allGather : bandwidth.ring;
  const allToAll = bytes.allToAll === 0 ? 0 : bytes.allToAll / MIB / (bandwidth.allToAll?.[ulysses] ?? 0);
  const neighbours = bytes.neighbours === 0 ? 0 : bytes.neighbours / MIB / (rates?.[degree] ?? 0);
  const msPerToken = allToAll + neighbours;
  return Number.isFinite(msPerToken) ? { kind, ulysses, ring: degree / ulysses, msPerToken } : undefined;
}
