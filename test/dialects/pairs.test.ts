import { pairLaws } from "./pairs-kit.ts";

// Ten thousand of each run with the long tests.
pairLaws(300);
