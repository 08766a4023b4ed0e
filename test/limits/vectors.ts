import type { Vector } from "./vector.ts";
import { bucketVectors } from "./vectors-bucket.ts";
import { reservationVectors } from "./vectors-reservation.ts";
import { windowVectors } from "./vectors-window.ts";

/** All of them, in order. The numbers that are missing concern Redis, leases and how keys are built. */
export const vectors: readonly Vector[] = [...bucketVectors, ...windowVectors, ...reservationVectors].sort((a, b) => a.id - b.id);
