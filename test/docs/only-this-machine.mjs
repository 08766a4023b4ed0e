// Loaded before each snippet: ports that a page names are taken as free ones, so that snippets run beside whatever listens here, and nothing leaves this machine.
import { Server, Socket } from "node:net";

const { listen } = Server.prototype;
Server.prototype.listen = function listenAnywhere(first, ...rest) {
  const asked = typeof first === "object" && first !== null ? first.port : first;
  const isNamed = typeof asked === "number" && asked > 0;
  if (isNamed) this.once("listening", () => process.send?.({ asked, port: this.address().port }));
  const where = isNamed ? { ...(typeof first === "object" ? first : {}), port: 0, host: "127.0.0.1" } : first;
  const others = isNamed ? rest.filter((argument) => typeof argument === "function") : rest;
  return listen.call(this, where, ...others);
};

const HERE = /^(?:127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+|localhost)$/;
const { connect } = Socket.prototype;
Socket.prototype.connect = function connectHere(...args) {
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  const host = typeof options === "object" ? (options.host ?? (options.path ? "localhost" : "localhost")) : (args[1] ?? "localhost");
  if (typeof host === "string" && !HERE.test(host)) throw new Error(`a snippet of the documentation may not reach ${host}`);
  return connect.apply(this, args);
};
