"use strict";
// What every project asks of its app: one call that passes and one that does not, at the mounted gateway and on a route with a budget.
async function statuses(port, path, key) {
  const call = () =>
    fetch(`http://127.0.0.1:${port}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${key}`, "x-login": "alice" },
      body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hi" }] }),
    });
  const answers = [];
  for (let i = 0; i < 2; i += 1) {
    const response = await call();
    const body = await response.json();
    answers.push([response.status, body.code ?? body.error?.code ?? body.object ?? null]);
  }
  return answers;
}

exports.statuses = statuses;
