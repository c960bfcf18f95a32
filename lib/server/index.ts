export { toNodeListener } from "./node.js";
export { OpenAIServer, type ServerOptions } from "./server.js";
