// Requests to the server. Each has the token, which is kept in this tab alone.

const HEADER = "X-Wsiseg-Token";
let token = "";

// Takes the token or the code from the address, and removes it there.
export async function connect() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (location.hash) history.replaceState(null, "", location.pathname);
  token = given.get("token") ?? sessionStorage.getItem("token") ?? "";
  if (given.has("code")) {
    const answer = await fetch("/api/session", { method: "POST", body: JSON.stringify({ code: given.get("code") }) });
    if (answer.ok) token = (await answer.json()).token;
  }
  sessionStorage.setItem("token", token);
}

export const headers = () => ({ [HEADER]: token });

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers() });
  } catch {
    throw new Error("wsiseg has ended; start `wsiseg view` again. Unsaved corrections are still in this page.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `the server answered ${answer.status}`);
}

export const getJson = async (path) => (await ask(path)).json();
export const getBuffer = async (path) => (await ask(path)).arrayBuffer();
export const getBlob = async (path) => (await ask(path)).blob();
export const postJson = async (path, content) => (await ask(path, { method: "POST", body: JSON.stringify(content) })).json();
export const postRows = async (path, rows) => (await ask(path, { method: "POST", body: rows })).json();
export const postBytes = async (path, bytes) => (await ask(path, { method: "POST", body: bytes })).arrayBuffer();
