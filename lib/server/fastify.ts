import type { FastifyPluginAsync } from "fastify";
import { toNodeListener } from "./node.js";
import type { OpenAIServer } from "./server.js";

export interface LonghaulFastifyOptions {
  readonly server: OpenAIServer;
}

/** The server as a plugin for Fastify: `app.register(longhaul, { server, prefix: "/ai" })`. */
export const longhaul: FastifyPluginAsync<LonghaulFastifyOptions> = async (app, { server }) => {
  const listener = toNodeListener(server);
  const prefix = app.prefix;
  // Bodies are read once, by the server; this plugin's parsers are its own.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  app.all("/*", (request, reply) => {
    reply.hijack();
    const { raw } = request;
    raw.url = raw.url?.slice(prefix.length) || "/";
    listener(raw, reply.raw);
  });
};
