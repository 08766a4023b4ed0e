// A gateway of its own: the guard in an Express app, told by a test what to open, and killed by it.
import type { BucketAddress } from "../../../src/core/admin.ts";
import { commanded } from "./commanded.ts";
import { gateway, type GatewayPlan, type RunningGateway } from "./gateway.ts";
import { requestsLoad, type RequestsPlan } from "./requests.ts";

let running: RunningGateway | undefined;

const opened = (): RunningGateway => {
  if (!running) throw new Error("open the gateway first");
  return running;
};

commanded({
  async open(plan: GatewayPlan) {
    running = await gateway(plan);
    return running.url;
  },
  load: (plan: Omit<RequestsPlan, "url">) => requestsLoad({ ...plan, url: opened().url }),
  health: () => opened().guard.admin.health(),
  bucket: (address: BucketAddress) => opened().guard.admin.bucket(address),
  setCapacity: ({ id, capacity }: { id: string; capacity: number }) => opened().guard.admin.setBucket({ scope: "user", id }, { capacity }),
  logs: () => opened().lines,
  close: () => running?.close(),
});
