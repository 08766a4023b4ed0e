// A process with a store of its own and nothing else: one member of a fleet that shares the limits of one Redis.
import { redisStore } from "../../../src/stores/redis/index.ts";
import { commanded } from "./commanded.ts";
import { limitsLoad, type LoadPlan } from "./limits-load.ts";

let store: ReturnType<typeof redisStore> | undefined;

const opened = (): ReturnType<typeof redisStore> => {
  if (!store) throw new Error("open the store first");
  return store;
};

commanded({
  async open({ url, partition, deadlineMs }: { url: string; partition: string; deadlineMs: number }) {
    store = redisStore(url, { partition, deadlineMs });
    await store.ready();
  },
  load: (plan: LoadPlan) => limitsLoad(opened().limits, plan),
  close: () => store?.close(),
});
