/** What an Express app does today: http-proxy-middleware with kept-alive connections. */
import { Agent } from "node:http";
import express from "express";
import { createProxyMiddleware } from "http-proxy-middleware";
import { serve, upstreamOrigin } from "./serve.ts";

const agent = new Agent({ keepAlive: true, maxSockets: 256, maxFreeSockets: 256 });
const app = express();
app.use(createProxyMiddleware({ target: upstreamOrigin, agent, proxyTimeout: 120_000 }));
serve(app);
