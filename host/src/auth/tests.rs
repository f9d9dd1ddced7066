//! Tokens that must be refused, each with its reason, and tokens that must be accepted. The keys in
//! `testdata` are for these tests only.

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde_json::{Value, json};

use super::error::{MAX_TOKEN, Part};
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn test_data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/auth/testdata", name].iter().collect()
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(test_data(name)).unwrap()
}

/// Signs texts that need not be valid JSON.
fn signed(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn hs256(header: &str, claims: &str) -> String {
    signed(header, claims, &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Valid claims for [`CONFIG`], with the changes in `changes`: a `null` removes a claim.
fn claims(changes: Value) -> String {
    let mut claims = json!({
        "sub": "7", "exp": now() + 60, "iat": now(), "aud": "sockhop", "iss": "issuer", "roles": ["admin"],
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims.to_string()
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn authenticator(config: &str) -> Authenticator {
    Authenticator::load(&AuthConfig::of_text(config).unwrap()).unwrap()
}

fn with_secret() -> Authenticator {
    authenticator(&format!(
        "mode = \"jwt\"\naudience = \"sockhop\"\nissuer = \"issuer\"\n[[keys]]\nalgorithm = \
         \"HS256\"\nsecret = \"{SECRET}\""
    ))
}

fn with_public_keys() -> Authenticator {
    let key = |algorithm: &str, file: &str| {
        let file = test_data(file);
        format!("[[keys]]\nalgorithm = \"{algorithm}\"\npublic_key_file = {file:?}\n")
    };
    authenticator(&format!(
        "mode = \"jwt\"\n{}{}{}",
        key("RS256", "rsa.pub.pem"),
        key("ES256", "p256.pub.pem"),
        key("EdDSA", "ed25519.pub.pem")
    ))
}

async fn refusal(authenticator: &Authenticator, token: &str) -> Option<TokenError> {
    authenticator.check(token, SystemTime::now()).await.err()
}

fn wrong_type(claim: &str, error: Option<TokenError>) -> bool {
    matches!(error, Some(TokenError::Type { claim: found, .. }) if found == claim)
}

#[tokio::test]
async fn a_token_whose_form_is_wrong_is_refused() {
    let host = with_secret();
    let good = hs256(HEADER, &claims(json!({})));
    assert_eq!(refusal(&host, &good).await, None);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, body, signature] = [parts[0], parts[1], parts[2]];
    let cases = [
        (String::new(), TokenError::Parts(1)),
        (format!("{header}.{body}"), TokenError::Parts(2)),
        (format!("{good}.{signature}"), TokenError::Parts(4)),
        (format!("{good}.x.y"), TokenError::Parts(5)),
        (format!("{header}.{body}."), TokenError::Encoding(Part::Signature)),
        (format!("{good}="), TokenError::Encoding(Part::Signature)),
        (format!(" {good}"), TokenError::Encoding(Part::Header)),
        (format!("{good}\n"), TokenError::Encoding(Part::Signature)),
        (format!("{header}..{signature}"), TokenError::Encoding(Part::Claims)),
        (format!("!.{body}.{signature}"), TokenError::Encoding(Part::Header)),
        ("x".repeat(MAX_TOKEN + 1), TokenError::Long(MAX_TOKEN + 1)),
        (hs256("[]", "{}"), TokenError::Json(Part::Header)),
        (hs256("{", "{}"), TokenError::Json(Part::Header)),
        (hs256(r#"{"alg":"HS256","alg":"none"}"#, "{}"), TokenError::Json(Part::Header)),
        (hs256(HEADER, "7"), TokenError::Json(Part::Claims)),
        (hs256(HEADER, "null"), TokenError::Json(Part::Claims)),
        (
            hs256(HEADER, &claims(json!({})).replacen('{', r#"{"sub":"1","#, 1)),
            TokenError::Json(Part::Claims),
        ),
        (
            hs256(HEADER, &claims(json!({})).replacen('{', r#"{"roles":[],"#, 1)),
            TokenError::Json(Part::Claims),
        ),
    ];
    for (token, error) in cases {
        assert_eq!(refusal(&host, &token).await, Some(error), "{token}");
    }
}

#[tokio::test]
async fn a_token_whose_header_or_signature_is_wrong_is_refused() {
    let host = with_secret();
    let body = claims(json!({}));
    let good = hs256(HEADER, &body);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = hs256(HEADER, &claims(json!({"sub": "8"})));
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let with = |header: &str| hs256(header, &body);
    let cases = [
        // `alg` is not the attacker's choice.
        (with(r#"{"alg":"none"}"#), TokenError::UnknownAlgorithm),
        (with(r#"{"alg":"None"}"#), TokenError::UnknownAlgorithm),
        (with(r#"{"alg":"hs256"}"#), TokenError::UnknownAlgorithm),
        (with(r#"{"alg":7}"#), TokenError::UnknownAlgorithm),
        (with(r#"{"typ":"JWT"}"#), TokenError::UnknownAlgorithm),
        (with(r#"{"alg":"PS256"}"#), TokenError::UnknownAlgorithm),
        (with(r#"{"alg":"RS256"}"#), TokenError::Algorithm("RS256")),
        (
            signed(r#"{"alg":"HS384"}"#, &body, &secret, Algorithm::HS384),
            TokenError::Algorithm("HS384"),
        ),
        // RFC 7515: an extension that is not understood must be refused.
        (with(r#"{"alg":"HS256","crit":["x"],"x":1}"#), TokenError::Extension("crit")),
        (with(r#"{"alg":"HS256","crit":[]}"#), TokenError::Extension("crit")),
        (with(r#"{"alg":"HS256","b64":false}"#), TokenError::Extension("b64")),
        // Another secret, another message, another signature.
        (
            signed(HEADER, &body, &EncodingKey::from_secret(&[b'x'; 32]), Algorithm::HS256),
            TokenError::Signature("HS256"),
        ),
        (
            format!("{}.{signature}", other.rsplit_once('.').unwrap().0),
            TokenError::Signature("HS256"),
        ),
        (format!("{message}.AAAA"), TokenError::Signature("HS256")),
        (signed(HEADER, &body, &secret, Algorithm::HS512), TokenError::Signature("HS256")),
    ];
    for (token, error) in cases {
        assert_eq!(refusal(&host, &token).await, Some(error), "{token}");
    }
    assert!(wrong_type("kid", refusal(&host, &with(r#"{"alg":"HS256","kid":7}"#)).await));
}

#[tokio::test]
async fn a_token_whose_claims_do_not_allow_it_here_and_now_is_refused() {
    let host = with_secret();
    let missing = |claim: &str| TokenError::Missing(claim.to_owned());
    let cases = [
        (json!({"exp": null}), missing("exp")),
        (json!({"sub": null}), missing("sub")),
        (json!({"aud": null}), missing("aud")),
        (json!({"iss": null}), missing("iss")),
        // The library would allow a minute.
        (json!({"exp": now() - 30}), TokenError::Expired(30)),
        (json!({"exp": 0}), TokenError::Expired(now())),
        (json!({"nbf": now() + 3600}), TokenError::NotYet(3599)),
        (json!({"iat": now() + 3600}), TokenError::Future(3599)),
        (json!({"aud": "other"}), TokenError::Audience),
        (json!({"aud": ["other", "others"]}), TokenError::Audience),
        (json!({"aud": []}), TokenError::Audience),
        (json!({"iss": "other"}), TokenError::Issuer),
    ];
    // A second may pass between the making of a token and its check.
    let about = |error: TokenError| match error {
        TokenError::Expired(seconds) => TokenError::Expired(seconds / 30),
        TokenError::NotYet(seconds) => TokenError::NotYet(seconds / 600),
        TokenError::Future(seconds) => TokenError::Future(seconds / 600),
        other => other,
    };
    for (changes, error) in cases {
        let found = refusal(&host, &hs256(HEADER, &claims(changes.clone()))).await;
        assert_eq!(found.map(about), Some(about(error)), "{changes}");
    }
    let wrong_types = [
        ("exp", json!((now() + 60).to_string())),
        ("exp", json!(-1)),
        ("exp", json!(1e30)),
        ("exp", json!([1])),
        ("nbf", json!("0")),
        ("nbf", json!(true)),
        ("iat", json!("0")),
        ("aud", json!(7)),
        ("aud", json!(["sockhop", 7])),
        ("aud", json!({})),
        ("iss", json!(["issuer"])),
        ("sub", json!(7)),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
        ("sub", json!("x".repeat(200))),
        ("sub", json!(["7"])),
        ("roles", json!("admin")),
        ("roles", json!([1])),
        ("roles", json!({"admin": true})),
    ];
    for (claim, value) in wrong_types {
        let token = hs256(HEADER, &claims(json!({claim: value})));
        assert!(wrong_type(claim, refusal(&host, &token).await), "{claim}: {value}");
    }
    // `null` is a value of the wrong type too.
    let token = hs256(HEADER, &claims(json!({})).replacen('{', r#"{"nbf":null,"#, 1));
    assert!(wrong_type("nbf", refusal(&host, &token).await));
}

#[tokio::test]
async fn an_audience_that_is_not_configured_is_refused() {
    let host = authenticator(&format!(
        "mode = \"jwt\"\n[[keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\""
    ));
    let error = refusal(&host, &hs256(HEADER, &claims(json!({})))).await;
    assert_eq!(error, Some(TokenError::AudienceNotSet));
}

#[tokio::test]
async fn a_public_key_is_never_the_secret_of_a_token() {
    let host = with_public_keys();
    for file in ["rsa.pub.pem", "p256.pub.pem", "ed25519.pub.pem"] {
        let as_secret = EncodingKey::from_secret(&pem(file));
        let token = signed(HEADER, &claims(json!({})), &as_secret, Algorithm::HS256);
        assert_eq!(refusal(&host, &token).await, Some(TokenError::Algorithm("HS256")));
    }
}

/// The private keys, with the names that a token may give to their algorithm.
fn private_keys() -> Vec<(&'static str, EncodingKey, Algorithm)> {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.pem")).unwrap();
    let p256 = EncodingKey::from_ec_pem(&pem("p256.pem")).unwrap();
    let ed25519 = EncodingKey::from_ed_pem(&pem("ed25519.pem")).unwrap();
    vec![
        ("RS256", rsa, Algorithm::RS256),
        ("ES256", p256, Algorithm::ES256),
        ("EdDSA", ed25519.clone(), Algorithm::EdDSA),
        ("Ed25519", ed25519, Algorithm::EdDSA),
    ]
}

#[tokio::test]
async fn a_good_token_of_every_algorithm_is_accepted() {
    let host = with_public_keys();
    let body = claims(json!({"aud": null}));
    for (name, key, algorithm) in private_keys() {
        let token = signed(&format!(r#"{{"alg":"{name}"}}"#), &body, &key, algorithm);
        let known = host.check(&token, SystemTime::now()).await.unwrap();
        assert_eq!(known.identity.user.as_deref(), Some("7"), "{name}");
        assert!(known.identity.has_role("admin"), "{name}");
        assert_eq!(known.identity.claims["iss"], "issuer");
    }
    for (name, algorithm) in
        [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)]
    {
        let host = authenticator(&format!(
            "mode = \"jwt\"\n[[keys]]\nalgorithm = \"{name}\"\nsecret = \"{SECRET}\""
        ));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = signed(&format!(r#"{{"alg":"{name}"}}"#), &body, &key, algorithm);
        assert_eq!(refusal(&host, &token).await, None, "{name}");
    }
}

#[tokio::test]
async fn a_token_within_its_rights_is_accepted_in_every_form() {
    let host = with_secret();
    for changes in [
        json!({"aud": ["other", "sockhop"]}),
        json!({"exp": f64::from(u32::try_from(now()).unwrap()) + 30.5}),
        json!({"nbf": now()}),
        json!({"roles": null}),
        json!({"roles": []}),
        json!({"iat": null}),
        json!({"sub": "an e-mail@example.com"}),
    ] {
        let token = hs256(HEADER, &claims(changes.clone()));
        assert_eq!(refusal(&host, &token).await, None, "{changes}");
    }
}

#[tokio::test]
async fn a_key_with_an_id_is_used_for_tokens_with_this_id_or_without_one() {
    let other = "x".repeat(32);
    let host = authenticator(&format!(
        "mode = \"jwt\"\n[[keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\nkid = \
         \"a\"\n[[keys]]\nalgorithm = \"HS256\"\nsecret = \"{other}\"\nkid = \"b\""
    ));
    let body = claims(json!({"aud": null}));
    let with = |kid: &str| hs256(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), &body);
    assert_eq!(refusal(&host, &with("a")).await, None);
    assert_eq!(refusal(&host, &hs256(HEADER, &body)).await, None);
    assert_eq!(refusal(&host, &with("b")).await, Some(TokenError::Signature("HS256")));
    assert_eq!(refusal(&host, &with("c")).await, Some(TokenError::UnknownKey("HS256")));
}

#[test]
fn a_key_that_can_not_verify_is_refused_with_its_setting() {
    let cases = [
        (
            "HS256",
            format!("secret = {:?}", "x".repeat(31)),
            "has 31 bytes; HS256 needs at least 32",
        ),
        ("HS512", format!("secret = {:?}", "x".repeat(63)), "HS512 needs at least 64"),
        (
            "RS256",
            format!("public_key_file = {:?}", test_data("rsa.pem")),
            "no public key for RS256",
        ),
        ("RS256", format!("public_key_file = {:?}", test_data("p256.pub.pem")), "for RS256"),
        ("RS256", format!("public_key_file = {:?}", test_data("rsa1024.pub.pem")), "for RS256"),
        ("ES256", format!("public_key_file = {:?}", test_data("p384.pub.pem")), "for ES256"),
        ("EdDSA", format!("public_key_file = {:?}", test_data("rsa.pub.pem")), "for EdDSA"),
        ("EdDSA", format!("public_key_file = {:?}", test_data("none.pem")), "can't read"),
    ];
    for (algorithm, key, problem) in cases {
        let config = AuthConfig::of_text(&format!(
            "mode = \"jwt\"\n[[keys]]\nalgorithm = \"{algorithm}\"\n{key}"
        ));
        let error = Authenticator::load(&config.unwrap()).err().unwrap().to_string();
        assert!(error.contains(problem) && error.starts_with("auth.keys[0]"), "{error}");
    }
}

/// A set with the public keys of `private_keys`, whose ids are their files, and more `members`.
fn set(files: &[&str], members: Vec<Value>) -> String {
    let of_file = |file: &&str| {
        let pem = pem(file);
        let key = match *file {
            "rsa.pub.pem" => DecodingKey::from_rsa_pem(&pem),
            "p256.pub.pem" => DecodingKey::from_ec_pem(&pem),
            _ => DecodingKey::from_ed_pem(&pem),
        };
        let mut jwk =
            serde_json::to_value(Jwk::from_decoding_key(&key.unwrap(), None).unwrap()).unwrap();
        jwk["kid"] = json!(file);
        jwk["use"] = json!("sig");
        jwk
    };
    json!({"keys": files.iter().map(of_file).chain(members).collect::<Vec<_>>()}).to_string()
}

/// A host whose keys are in a file with this content.
fn with_set(file: &Path, content: &str) -> Result<Authenticator, TokenKeyError> {
    std::fs::write(file, content).unwrap();
    let config = format!(
        "mode = \"jwt\"\n[jwks]\nfile = {file:?}\nalgorithms = [\"RS256\", \"ES256\", \"Ed25519\"]"
    );
    Authenticator::load(&AuthConfig::of_text(&config).unwrap())
}

const ALL_FILES: [&str; 3] = ["rsa.pub.pem", "p256.pub.pem", "ed25519.pub.pem"];

#[tokio::test]
async fn keys_of_a_set_are_found_by_their_id_and_others_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let unusable = vec![
        json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "secret", "alg": "HS256"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "x25519"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "short"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA"}),
        json!({"kty": "RSA", "n": "AAAA", "e": "AQAB"}),
        json!({"kty": "unknown"}),
        json!(7),
    ];
    let host = with_set(&dir.path().join("jwks.json"), &set(&ALL_FILES, unusable)).unwrap();
    let body = claims(json!({"aud": null}));
    for (name, key, algorithm) in private_keys() {
        let file = match name {
            "RS256" => ALL_FILES[0],
            "ES256" => ALL_FILES[1],
            _ => ALL_FILES[2],
        };
        for (kid, error) in [(Some(file), None), (None, None), (Some("none"), Some(()))] {
            let kid = kid.map(|kid| format!(r#","kid":"{kid}""#)).unwrap_or_default();
            let token = signed(&format!(r#"{{"alg":"{name}"{kid}}}"#), &body, &key, algorithm);
            assert_eq!(refusal(&host, &token).await.map(|_| ()), error, "{name} {kid}");
        }
    }
    let error = refusal(&host, &hs256(r#"{"alg":"HS256","kid":"secret"}"#, &body)).await;
    assert_eq!(error, Some(TokenError::Algorithm("HS256")));
}

#[test]
fn a_set_without_a_usable_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let encryption = json!({"kty": "RSA", "use": "enc", "n": "AAAA", "e": "AQAB"});
    let twice = set(&["rsa.pub.pem", "rsa.pub.pem"], vec![]);
    let many: Vec<Value> = (0..101).map(|_| json!({"kty": "unknown"})).collect();
    for (content, problem) in [
        ("{", "is no JSON Web Key Set"),
        ("{}", "is no JSON Web Key Set"),
        (r#"{"keys":[]}"#, "has no key for RS256 or ES256 or EdDSA"),
        (&set(&[], vec![encryption]), "has no key for"),
        (&twice, "the same `kid`"),
        (&set(&ALL_FILES, many), "at most 100"),
    ] {
        let error = with_set(&file, content).err().unwrap().to_string();
        assert!(error.contains(problem), "{content}: {error}");
    }
}

#[tokio::test]
async fn a_set_that_changes_is_read_again_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let host = with_set(&file, &set(&["rsa.pub.pem"], vec![])).unwrap();
    let body = claims(json!({"aud": null}));
    let token = |index: usize| {
        let (name, key, algorithm) = private_keys().swap_remove(index);
        signed(&format!(r#"{{"alg":"{name}"}}"#), &body, &key, algorithm)
    };
    let (rsa, p256) = (token(0), token(1));
    assert_eq!(refusal(&host, &rsa).await, None);
    assert_eq!(refusal(&host, &p256).await, Some(TokenError::Algorithm("ES256")));
    std::fs::write(&file, "{").unwrap();
    host.tend();
    assert_eq!(refusal(&host, &rsa).await, None);
    std::fs::write(&file, set(&["p256.pub.pem"], vec![])).unwrap();
    host.tend();
    assert_eq!(refusal(&host, &p256).await, None);
    assert_eq!(refusal(&host, &rsa).await, Some(TokenError::Algorithm("RS256")));
}

#[tokio::test]
async fn credentials_are_those_of_the_handshake_and_else_those_of_the_header() {
    let host = with_secret();
    let token = hs256(HEADER, &claims(json!({})));
    let of = |auth: Option<Value>, bearer: Option<&str>| Credentials {
        auth: auth.map(|auth| auth.to_string().into()),
        bearer: bearer.map(Into::into),
    };
    let good = [of(Some(json!({"token": token})), None), of(Some(json!({})), Some(&token))];
    for credentials in good {
        assert_eq!(host.identify(&credentials).await.unwrap().identity.user.as_deref(), Some("7"));
    }
    let bad = [
        (of(None, None), TokenError::None),
        (of(Some(json!({"token": 7})), Some(&token)), TokenError::NotText),
        (of(Some(json!({"token": ""})), Some(&token)), TokenError::Parts(1)),
    ];
    for (credentials, error) in bad {
        assert_eq!(host.identify(&credentials).await.err(), Some(error));
    }
}

#[tokio::test]
async fn anonymous_clients_connect_where_they_may_but_never_with_a_bad_token() {
    let jwt = format!(
        "mode = \"jwt\"\nanonymous = true\n[[keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\""
    );
    let bad = || Credentials { auth: Some(r#"{"token":"x"}"#.into()), bearer: None };
    let host = authenticator(&jwt);
    assert_eq!(host.identify(&Credentials::default()).await.unwrap().identity.user, None);
    assert!(host.identify(&bad()).await.is_err());
    // Where nobody needs a token, none is looked at.
    assert_eq!(authenticator("").identify(&bad()).await.unwrap().identity.user, None);
}

#[tokio::test]
async fn a_created_token_is_accepted() {
    let claims = json!({"sub": "7", "exp": now() + 60});
    let claims = claims.as_object().unwrap();
    let config = AuthConfig::of_text(&format!(
        "mode = \"jwt\"\n[[keys]]\nalgorithm = \"HS512\"\nsecret = \"{SECRET}\"\nkid = \"a\""
    ))
    .unwrap();
    let token = sign(&config, None, claims).unwrap();
    let host = Authenticator::load(&config).unwrap();
    assert_eq!(refusal(&host, &token).await, None);
    for (algorithm, name) in [("RS256", "rsa"), ("ES256", "p256"), ("EdDSA", "ed25519")] {
        let public = test_data(&format!("{name}.pub.pem"));
        let config = AuthConfig::of_text(&format!(
            "mode = \"jwt\"\n[[keys]]\nalgorithm = \"{algorithm}\"\npublic_key_file = {public:?}"
        ))
        .unwrap();
        let token = sign(&config, Some(&test_data(&format!("{name}.pem"))), claims).unwrap();
        let host = Authenticator::load(&config).unwrap();
        assert_eq!(refusal(&host, &token).await, None, "{algorithm}");
        assert!(matches!(sign(&config, None, claims), Err(SignError::OnlyPublic)));
    }
    assert!(matches!(sign(&AuthConfig::default(), None, claims), Err(SignError::NoKey)));
}

#[test]
fn no_message_contains_a_part_of_the_token() {
    let text = "secret-part";
    let long = format!("{text}{}", "x".repeat(MAX_TOKEN));
    for token in [text, &long, &format!("{text}.{text}.{text}")] {
        let error = Token::parse(token).unwrap_err();
        assert!(!error.to_string().contains(text), "{error}");
    }
}
