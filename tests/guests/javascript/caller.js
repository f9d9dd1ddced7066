// Sends HTTP requests, as its events ask.

import { handles, plugin } from "sockhop:plugin/registry@0.1.1";
import { send } from "sockhop:plugin/http@0.1.1";

export function register() {
  plugin("caller_javascript", "1.0.0", "Sends HTTP requests");
  handles("call_javascript", JSON.stringify({ type: "string" }), JSON.stringify({ type: "object" }));
}

// Answers with the status and the body, or with the code of the refusal.
export function handle(event) {
  const request = { method: "GET", url: JSON.parse(event.data), headers: [], body: new Uint8Array() };
  try {
    const { status, body } = send(request);
    return JSON.stringify({ status, body: String.fromCharCode(...body) });
  } catch (error) {
    // A refusal of the host arrives as an `Error` with the record as its payload.
    if (error.payload === undefined) throw error;
    return JSON.stringify({ code: error.payload.code });
  }
}
