export { collectors, type Collectors } from "./collectors.ts";
export type { CollectorId } from "./collector.ts";
export type { CollectorsOptions } from "./options.ts";
export type { CollectorStatus } from "./status.ts";
