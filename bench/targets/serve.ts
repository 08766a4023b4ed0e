import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";

/** What the bench told this process on its command line. */
export const upstreamOrigin = process.argv[2] ?? "";

/** Serves on a free port of 127.0.0.1, tells the bench which, and ends when the bench says so or is gone. */
export function serve(app: RequestListener, close: () => unknown = () => undefined): void {
  const server = createServer(app);
  server.listen(0, "127.0.0.1", 1024, () => process.send?.({ port: (server.address() as AddressInfo).port }));
  const end = (): void => {
    // exit() rather than an empty loop: a profile is written at exit, and open connections must not delay it.
    void Promise.resolve(close()).finally(() => process.exit(0));
  };
  process.on("disconnect", end);
  process.on("message", (message) => {
    if (message === "stop") end();
    else if (message === "cpu") process.send?.({ cpuUs: cpuUs() });
  });
  // The terminal sends Ctrl-C to every process of the group; the bench decides about the end.
  process.on("SIGINT", () => undefined);
}

function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}
