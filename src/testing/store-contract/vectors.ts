import type { Vector } from "./limits-kit.ts";
import { bucketVectors } from "./vectors-bucket.ts";
import { reservationVectors } from "./vectors-reservation.ts";
import { windowVectors } from "./vectors-window.ts";

/** All of them, in order. The numbers that are missing concern how keys are built and what one store does inside. */
export const vectors: readonly Vector[] = [...bucketVectors, ...windowVectors, ...reservationVectors].sort((a, b) => a.id - b.id);
