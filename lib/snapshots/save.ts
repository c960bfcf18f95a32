import type { NativeModel, NativeSequenceImage } from "../native.js";
import type { CacheSource } from "../sequence.js";
import type { Streams } from "../streams.js";
import { writeState } from "./state.js";
import { writeSnapshot } from "./writer.js";

/** What a snapshot says of the model besides the streams. */
export interface SaveContext {
  readonly model: NativeModel;
  readonly fingerprint: () => Promise<string>;
}

/** Saves streams, in which nothing may change meanwhile. Resolves with the bytes of the file. */
export async function saveStreams(
  path: string,
  streams: Streams,
  { model, fingerprint }: SaveContext,
  signal: AbortSignal,
): Promise<number> {
  const { state, sequences } = await streams.snapshot();
  const images: [CacheSource, NativeSequenceImage][] = [];
  for (const sequence of sequences) images.push([sequence, await sequence.image(signal)]);
  const json = writeState({
    model: { fingerprint: await fingerprint(), architecture: model.architecture },
    streams: state,
    sequences: images.map(([, { positions: _, ...image }]) => image),
  });
  return writeSnapshot(path, json, sections(images, signal), signal);
}

async function* sections(
  images: readonly [CacheSource, NativeSequenceImage][],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void> {
  for (const [sequence, image] of images) {
    const { buffer, byteOffset, byteLength } = image.positions;
    // Little-endian, as every machine that longhaul runs on.
    yield new Uint8Array(buffer, byteOffset, byteLength);
    yield* sequence.rows(image, signal);
  }
}
