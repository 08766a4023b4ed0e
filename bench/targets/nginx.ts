import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";

/** The nginx on this machine, null when there is none. */
export function nginxBinary(): { readonly path: string; readonly version: string } | null {
  for (const path of ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"]) {
    const shown = spawnSync(path, ["-v"], { encoding: "utf8" });
    if (shown.status === 0) return { path, version: /nginx\/([\d.]+)/.exec(shown.stderr)?.[1] ?? "?" };
  }
  return null;
}

/** Writes a configuration into `folder`: one worker, kept-alive connections both ways, answers passed on as they come. */
export async function nginxTarget(binary: string, folder: string, upstreamPort: number): Promise<{ port: number; command: string; args: string[] }> {
  const port = await freePort();
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "nginx.conf");
  writeFileSync(file, configuration(port, upstreamPort, temporaryFolders(binary)));
  return { port, command: binary, args: ["-p", `${folder}/`, "-e", "error.log", "-c", file] };
}

// One process is master and worker at once, so that its id is the one to measure and to end.
const configuration = (port: number, upstreamPort: number, otherTemporaryFolders: string): string => `
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  ${otherTemporaryFolders}
  tcp_nodelay on;
  keepalive_timeout 60s;
  keepalive_requests 1000000000;
  upstream provider {
    server 127.0.0.1:${upstreamPort};
    keepalive 128;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=1024;
    location / {
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }
}
`;

/** Folders of modules that are not used, but that nginx would create in places where only root may write. A module left out at build time has no directive. */
function temporaryFolders(binary: string): string {
  const build = spawnSync(binary, ["-V"], { encoding: "utf8" }).stderr;
  const modules = ["fastcgi", "uwsgi", "scgi"].filter((name) => !build.includes(`--without-http_${name}_module`));
  return modules.map((name) => `${name}_temp_path ${name};`).join(" ");
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
