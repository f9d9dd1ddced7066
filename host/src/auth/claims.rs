//! The claims of a token: who its user is, and when it is valid. Pure: the time is an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sockhop_core::identity::room_of_user;
use sockhop_core::rule::is_room_name;

use crate::config::{AuthConfig, ClaimPath};
use crate::event::Identity;

use super::client::Authenticated;
use super::error::TokenError;

/// How much the clocks of the issuer and of the host may differ. The host acts on an expired token
/// only when this time has passed too.
pub(crate) const LEEWAY: Duration = Duration::from_secs(3);

/// Returns the user of a token with these claims, and when the token expires.
///
/// # Errors
/// A claim is missing, has the wrong type, or does not allow the token now and here.
pub(super) fn check(
    claims: Map<String, Value>,
    config: &AuthConfig,
    now: SystemTime,
) -> Result<Authenticated, TokenError> {
    let expires = time(&claims, "exp")?.ok_or_else(|| TokenError::Missing("exp".to_owned()))?;
    if now >= expires + LEEWAY {
        return Err(TokenError::Expired(seconds(now, expires)));
    }
    match time(&claims, "nbf")? {
        Some(begins) if begins > now + LEEWAY => {
            return Err(TokenError::NotYet(seconds(begins, now)));
        }
        Some(_) | None => {}
    }
    let issued_at = time(&claims, "iat")?;
    match issued_at {
        Some(issued) if issued > now + LEEWAY => {
            return Err(TokenError::Future(seconds(issued, now)));
        }
        Some(_) | None => {}
    }
    check_audience(&claims, config.audience.as_deref())?;
    check_issuer(&claims, config.issuer.as_deref())?;
    let user = user(&claims, &config.user_claim)?;
    let roles = roles(&claims, &config.roles_claim)?;
    let identity = Identity { user: Some(user), roles, claims: claims.into() };
    Ok(Authenticated { identity: identity.into(), expires_at: Some(expires), issued_at })
}

/// The seconds from one time to a later one, rounded down.
fn seconds(later: SystemTime, earlier: SystemTime) -> u64 {
    later.duration_since(earlier).unwrap_or_default().as_secs()
}

/// The last time that a claim may have: the end of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Reads a NumericDate (RFC 7519): seconds since 1970, perhaps with a fraction.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<SystemTime>, TokenError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds));
    let expected = "a number of seconds since 1970";
    let seconds = seconds.ok_or(TokenError::Type { claim: claim.to_owned(), expected })?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

/// A token with an audience is only for that audience (RFC 7519, section 4.1.3).
fn check_audience(claims: &Map<String, Value>, own: Option<&str>) -> Result<(), TokenError> {
    let wrong =
        || TokenError::Type { claim: "aud".to_owned(), expected: "text or a list of texts" };
    let given = match claims.get("aud") {
        None => None,
        Some(Value::String(audience)) => Some(vec![audience.as_str()]),
        Some(Value::Array(list)) => {
            let texts: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
            Some(texts.ok_or_else(wrong)?)
        }
        Some(_) => return Err(wrong()),
    };
    match (given, own) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(TokenError::AudienceNotSet),
        (None, Some(_)) => Err(TokenError::Missing("aud".to_owned())),
        (Some(given), Some(own)) if given.contains(&own) => Ok(()),
        (Some(_), Some(_)) => Err(TokenError::Audience),
    }
}

fn check_issuer(claims: &Map<String, Value>, expected: Option<&str>) -> Result<(), TokenError> {
    match (claims.get("iss"), expected) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(TokenError::Missing("iss".to_owned())),
        (Some(Value::String(given)), Some(expected)) if given != expected => {
            Err(TokenError::Issuer)
        }
        (Some(Value::String(_)), _) => Ok(()),
        (Some(_), _) => Err(TokenError::Type { claim: "iss".to_owned(), expected: "text" }),
    }
}

fn user(claims: &Map<String, Value>, path: &ClaimPath) -> Result<String, TokenError> {
    let expected = "the name of a user: a text that can be part of a room's name";
    match find(claims, path) {
        None => Err(TokenError::Missing(path.as_str().to_owned())),
        Some(Value::String(user)) if !user.is_empty() && is_room_name(&room_of_user(user)) => {
            Ok(user.clone())
        }
        Some(_) => Err(TokenError::Type { claim: path.as_str().to_owned(), expected }),
    }
}

fn roles(claims: &Map<String, Value>, path: &ClaimPath) -> Result<Vec<String>, TokenError> {
    let wrong =
        || TokenError::Type { claim: path.as_str().to_owned(), expected: "a list of texts" };
    match find(claims, path) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            let role = |role: &Value| role.as_str().map(str::to_owned).ok_or_else(wrong);
            list.iter().map(role).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// Finds a claim. A claim whose whole name is the path comes first: names such as
/// `https://example.com/roles` contain dots.
fn find<'claims>(claims: &'claims Map<String, Value>, path: &ClaimPath) -> Option<&'claims Value> {
    let path = path.as_str();
    claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 2_000_000_000;

    fn config(text: &str) -> AuthConfig {
        AuthConfig::of_text(text).unwrap()
    }

    fn checked(claims: Value, config: &AuthConfig) -> Result<Authenticated, TokenError> {
        let Value::Object(claims) = claims else { panic!("no object") };
        check(claims, config, UNIX_EPOCH + Duration::from_secs(NOW))
    }

    #[test]
    fn a_claim_is_found_by_its_whole_name_or_by_a_path() {
        let claims = json!({
            "exp": NOW + 60, "sub": "7",
            "realm": {"roles": ["a"]}, "https://example.com/roles": ["b"],
        });
        for (path, role) in [("realm.roles", "a"), ("https://example.com/roles", "b")] {
            let found = checked(claims.clone(), &config(&format!("roles_claim = {path:?}")));
            assert_eq!(found.unwrap().identity.roles, [role]);
        }
        let none = checked(claims, &config("roles_claim = \"realm.groups\""));
        assert!(none.unwrap().identity.roles.is_empty());
    }

    #[test]
    fn a_token_is_valid_within_three_seconds_of_its_times() {
        let at = |exp: i64, nbf: i64| {
            let time = |offset: i64| NOW.checked_add_signed(offset).unwrap();
            checked(json!({"sub": "7", "exp": time(exp), "nbf": time(nbf)}), &config(""))
        };
        assert!(at(-2, 0).is_ok() && at(60, 3).is_ok());
        assert_eq!(at(-3, 0), Err(TokenError::Expired(3)));
        assert_eq!(at(60, 4), Err(TokenError::NotYet(4)));
        let expires = at(60, 0).unwrap().expires_at.unwrap();
        assert_eq!(expires, UNIX_EPOCH + Duration::from_secs(NOW + 60));
    }
}
