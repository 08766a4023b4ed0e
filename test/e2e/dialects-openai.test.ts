import { dialectMatrix } from "./dialects-kit.ts";

dialectMatrix("openai");
