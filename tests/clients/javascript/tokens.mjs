// Tokens of users, and the settings of a host that accepts them.

import { createHmac } from "node:crypto";

const SECRET = "a secret that has more than thirty-two bytes";

/** Settings of a host that accepts the tokens of `token`. */
export const WITH_TOKENS = {
  SOCKHOP_AUTH__MODE: "jwt",
  SOCKHOP_AUTH__GRACE_MS: "2000",
  SOCKHOP_AUTH__KEYS: `[{algorithm="HS256",secret="${SECRET}"}]`,
};

/** A token of `sub` that expires after `seconds`. */
export function token(sub, seconds, roles = []) {
  const encoded = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const signed = `${encoded({ alg: "HS256", typ: "JWT" })}.${encoded({ sub, roles, iat: now, exp: now + seconds })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}
