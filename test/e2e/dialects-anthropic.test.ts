import { dialectMatrix } from "./dialects-kit.ts";

dialectMatrix("anthropic");
