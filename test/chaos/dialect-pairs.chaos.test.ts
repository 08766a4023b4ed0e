import { pairLaws } from "../dialects/pairs-kit.ts";

pairLaws(10_000);
