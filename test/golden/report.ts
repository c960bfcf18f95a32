// Lines and counts of `npm run fixtures`, whoever compared: the golden program's lines come in as its JSON.

export interface Quantity {
  readonly case: string;
  readonly kind: string;
  readonly quantity: string;
  /** Null when there is no number, such as for arrays of different shapes. */
  readonly error: number | null;
  readonly limit: number | null;
  readonly pass: boolean;
  /** The worst element, or why it failed. */
  readonly where?: string;
}

export interface Skip {
  readonly case: string;
  readonly kind: string;
  readonly quantity?: string;
  readonly skipped: string;
}

export class Report {
  passed = 0;
  failed = 0;
  skipped = 0;
  readonly #json: boolean;

  constructor(json: boolean) {
    this.#json = json;
  }

  quantity(line: Quantity): void {
    if (line.pass) this.passed++;
    else this.failed++;
    const columns = `error ${number(line.error)} limit ${number(line.limit)}`;
    const verdict = line.pass ? "pass" : `FAIL  ${line.where ?? ""}`;
    this.#print(line, `${name(line)} ${columns} ${verdict}`);
  }

  skip(line: Skip): void {
    this.skipped++;
    this.#print(line, `${name(line)} skipped: ${line.skipped}`);
  }

  summary(): void {
    const { passed, failed, skipped } = this;
    this.#print({ passed, failed, skipped }, `${passed} passed, ${failed} failed, ${skipped} skipped`);
  }

  #print(json: object, text: string): void {
    console.log(this.#json ? JSON.stringify(json) : text);
  }
}

const name = (line: Quantity | Skip) => `${line.case.padEnd(34)} ${(line.quantity ?? "").padEnd(28)}`;
const number = (value: number | null) =>
  (value === null ? "inf" : String(Number(value.toPrecision(3)))).padEnd(10);
