//! Which URLs a request may have. Only for hosts and tests: a compiled plugin contains no parser.

use url::Url;

/// Maximum bytes of a URL, as it is sent. Servers and the host's client accept no more.
const MAX_BYTES: usize = 65_534;

/// Parses the absolute URL of a request. Forms that parsers read in different ways are refused.
///
/// # Errors
/// It is no URL that a request can have. The error is the end of a sentence about it.
pub fn parse(text: &str) -> Result<Url, &'static str> {
    const TOO_LONG: &str = "has more than 65534 bytes";
    if text.len() > MAX_BYTES {
        return Err(TOO_LONG);
    }
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
        return Err("has a space, a control character or a backslash");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Err("is not absolute") };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err("has another scheme than `https` and `http`");
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err("has no host");
    }
    if authority.contains('@') {
        return Err("has a user; send the header `authorization` instead");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if path.split('/').any(is_dots) {
        return Err("has a segment `.` or `..`, which stands for another path");
    }
    let url = Url::parse(text).map_err(|_| "is invalid")?;
    if url.port() == Some(0) {
        return Err("has the port 0, to which nobody can connect");
    }
    // Percent-encoding makes it longer.
    if url.as_str().len() > MAX_BYTES {
        return Err(TOO_LONG);
    }
    Ok(url)
}

/// Whether a parser replaces a segment of a path, as `..`, also if its dots are percent-encoded.
fn is_dots(segment: &str) -> bool {
    let dots = segment.to_ascii_lowercase().replace("%2e", ".");
    dots == "." || dots == ".."
}

/// Whether a URL has the origin of `prefix`, and begins with it.
pub fn begins_with(url: &Url, prefix: &Url) -> bool {
    url.origin() == prefix.origin() && url.as_str().starts_with(prefix.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_is_wrong_with_a_url() {
        let long = format!("https://a.test/{}", "x".repeat(70_000));
        let encoded = format!("https://a.test/{}", "ü".repeat(20_000));
        for (text, said) in [
            ("https://a.test/a b", "space"),
            ("https://exa mple.com/", "space"),
            ("a.test/x", "not absolute"),
            ("ftp://a.test/", "scheme"),
            ("https://", "no host"),
            ("https://u:p@a.test/", "user"),
            ("https://a.test:0/", "port 0"),
            ("https://a.test:99999/", "invalid"),
            ("https://a.test/x/../y", "`..`"),
            ("https://a.test/..", "`..`"),
            ("https://a.test/x/%2E%2e/y", "`..`"),
            ("https://a.test/.?x", "`..`"),
            (long.as_str(), "65534"),
            (encoded.as_str(), "65534"),
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains(said), "{text}: {problem}");
        }
        for text in ["https://a.test/x..y/...?a=../..#..", "https://a.test:443/", "http://[::1]"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_prefix_has_a_whole_origin() {
        let begins =
            |url: &str, prefix: &str| begins_with(&parse(url).unwrap(), &parse(prefix).unwrap());
        for (url, prefix, expected) in [
            ("https://api.example.com/v1", "https://api.example.com", true),
            ("https://API.example.com:443/v1", "https://api.example.com/", true),
            ("https://api.example.com/v1/x", "https://api.example.com/v1", true),
            ("https://api.example.com.evil.test/", "https://api.example.com", false),
            ("https://api.example.com:8443/", "https://api.example.com", false),
            ("http://api.example.com/", "https://api.example.com", false),
            ("https://api.example.com/v2", "https://api.example.com/v1", false),
        ] {
            assert_eq!(begins(url, prefix), expected, "{url} {prefix}");
        }
    }
}
