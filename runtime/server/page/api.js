// Asks the server; what goes wrong becomes a sentence and a next step.

const TOKEN = "earsight-token";
const AGAIN = 2; // times that a busy server is asked again by itself

export class Trouble extends Error {
  // `status` and `code` are the server's; null where it gave no answer.
  constructor(sentence, next, status = null, code = null) {
    super(sentence);
    Object.assign(this, { next, status, code });
  }

  // Whether the same may be taken another time.
  get passes() {
    return this.status === null || [401, 408, 429].includes(this.status) || this.status >= 500;
  }
}

const SENTENCES = {
  408: ["The recording took too long to arrive.", "Nothing is lost. Check your connection, then press Try again."],
  413: ["This is too large for the server.", "Say less at a time, or choose a smaller picture."],
  415: ["The server cannot read this file.", "Choose a picture in JPEG or PNG, or a recording in WAV."],
  429: ["You have asked very often.", "Nothing is lost. Wait a minute, then press Try again."],
  500: ["The server has made a mistake.", "Nothing is lost. Press Try again. If it happens again, tell whoever runs the server."],
  503: ["The server is busy.", "Nothing is lost. Wait a little, then press Try again."],
  504: ["The server took too long.", "Nothing is lost. Press Try again, or say less at a time."],
};

export class Server {
  // `askToken(wasWrong)` resolves to a token; `onWait(seconds)` is told when a busy server will be asked again.
  constructor(askToken, onWait) {
    this.askToken = askToken;
    this.onWait = onWait;
    this.token = sessionStorage.getItem(TOKEN);
  }

  // Returns the answer's JSON. `signal` gives up; with `whole`, between two attempts alone: what the server may have
  // received whole is answered first.
  async ask(path, { method = "GET", form, json, signal, whole = false, again = AGAIN } = {}) {
    for (;;) {
      signal?.throwIfAborted();
      const { token } = this;
      const answer = await this.send(path, method, form, json, whole ? null : signal);
      if (answer.ok) {
        if (token) sessionStorage.setItem(TOKEN, token); // kept once it has worked
        return answer.json();
      }
      if (answer.status === 401) {
        await this.replace(token, signal);
      } else if ([429, 503].includes(answer.status) && again > 0) {
        again -= 1;
        await this.wait(Number(answer.headers.get("Retry-After")) || 2, signal);
      } else {
        throw await troubleOf(answer);
      }
    }
  }

  // Of the token that the server does not know; another request may have replaced it meanwhile.
  async replace(token, signal) {
    if (token !== this.token) return;
    sessionStorage.removeItem(TOKEN);
    this.token = await unlessGivenUp(this.askToken(Boolean(token)), signal);
  }

  // Returns a file.
  async bytes(path) {
    const answer = await this.send(path, "GET");
    if (!answer.ok) throw await troubleOf(answer);
    return answer.blob();
  }

  async send(path, method, form, json, signal) {
    const headers = {};
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    if (json) headers["Content-Type"] = "application/json";
    try {
      return await fetch(path, { method, headers, body: form ?? (json && JSON.stringify(json)), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble(
        "The server does not answer.",
        "Nothing is lost. Check that you are connected and that the server runs, then press Try again.",
      );
    }
  }

  wait(seconds, signal) {
    this.onWait(seconds);
    return unlessGivenUp(new Promise((resolve) => setTimeout(resolve, 1000 * seconds)), signal);
  }
}

function unlessGivenUp(promise, signal) {
  if (!signal) return promise;
  signal.throwIfAborted();
  const givenUp = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  return Promise.race([promise, givenUp]);
}

async function troubleOf(answer) {
  const { error = {} } = await answer.json().catch(() => ({}));
  const unknown = ["The server did not take this.", `It says: ${error.message ?? answer.status}`];
  return new Trouble(...(SENTENCES[answer.status] ?? unknown), answer.status, error.code);
}

export function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) form.append(name, value, value.name ?? "recording.wav");
    else if (value !== null && value !== undefined) form.append(name, String(value));
  }
  return form;
}
