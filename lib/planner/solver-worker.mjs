// Solves one model after another with HiGHS (WebAssembly, one thread, synchronous), away from the thread that serves.
import { parentPort } from "node:worker_threads";
import loadHighs from "highs";

const highs = await loadHighs({ print: () => {}, printErr: () => {} });

/** @param {import("./solver.js").LinearModel} request */
function solve({ columns, rows, matrix, integer, start, seconds }) {
  return highs.withModel(
    {
      numCols: columns.cost.length,
      numRows: rows.lower.length,
      colCost: columns.cost,
      colLower: columns.lower,
      colUpper: columns.upper,
      rowLower: rows.lower,
      rowUpper: rows.upper,
      matrix: {
        format: "csc",
        numRows: rows.lower.length,
        numCols: columns.cost.length,
        ...matrix,
      },
      ...(integer === undefined ? {} : { integrality: integer }),
    },
    (model) => {
      model.options.set({ output_flag: false, ...(seconds === undefined ? {} : { time_limit: seconds }) });
      if (start !== undefined) model.setSolution({ colValue: start });
      model.run();
      const { optimal, infeasible, timeLimit } = highs.constants.modelStatus;
      const status = model.getModelStatus();
      const names = new Map([
        [optimal, "optimal"],
        [infeasible, "infeasible"],
        [timeLimit, "time limit"],
      ]);
      const { colValue, rowDual } = model.getSolution();
      return {
        status: names.get(status) ?? `status ${status}`,
        objective: model.getObjectiveValue(),
        values: colValue,
        rowDuals: rowDual,
      };
    },
  );
}

parentPort.on("message", (request) => {
  try {
    parentPort.postMessage({ solution: solve(request) });
  } catch (error) {
    // HiGHS's own errors carry its minified source.
    parentPort.postMessage({ failure: String(error?.message ?? error).slice(0, 300) });
  }
});
