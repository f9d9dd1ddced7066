//! The HTTP routes that plugins declare: methods and path templates, and which routes conflict.

mod table;

use std::fmt;
use std::str::FromStr;

pub use table::{Found, OwnedRoute, RouteTable, RouteTaken};

/// Maximum number of bytes in a path template.
pub const MAX_PATH: usize = 256;

/// Maximum number of segments in a path template.
pub const MAX_SEGMENTS: usize = 16;

/// First segments that belong to the host.
pub const RESERVED_SEGMENTS: [&str; 7] =
    ["api", "console", "contract", "healthz", "metrics", "readyz", "socket.io"];

/// The method of a route. The host itself answers HEAD, by the route of GET, and OPTIONS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads. The request has no body.
    Get,
    /// Creates, or does anything else.
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
    /// Deletes. The request has no body.
    Delete,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 5] = [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete];

    /// The name in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether a request with this method has a body.
    pub const fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put | Self::Patch)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is not a method of routes; the methods are {all}")
        })
    }
}

/// The template of a path: `/memory-logs/{id}` matches `/memory-logs/` and one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// The name of the variable.
    Variable(String),
}

impl FromStr for PathTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| Err(format!("`{text}` is not a valid path: {reason}"));
        let Some(path) = text.strip_prefix('/') else { return wrong("it must begin with `/`") };
        if text.len() > MAX_PATH {
            return wrong(&format!("it has more than {MAX_PATH} bytes"));
        }
        let segments: Result<Vec<_>, String> = path.split('/').map(segment).collect();
        let segments = match segments {
            Ok(segments) => segments,
            Err(reason) => return wrong(&reason),
        };
        if segments.len() > MAX_SEGMENTS {
            return wrong(&format!("it has more than {MAX_SEGMENTS} segments"));
        }
        match segments.first() {
            Some(Segment::Literal(first)) if RESERVED_SEGMENTS.contains(&first.as_str()) => {
                return wrong(&format!("paths below `/{first}` belong to the host"));
            }
            Some(Segment::Literal(_)) => {}
            Some(Segment::Variable(_)) | None => {
                return wrong("its first segment must not be a variable");
            }
        }
        let template = Self { text: text.to_owned(), segments };
        let mut names: Vec<_> = template.variables().collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return wrong("two of its variables have the same name");
        }
        Ok(template)
    }
}

/// Parses one segment of a template.
fn segment(text: &str) -> Result<Segment, String> {
    if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let mut characters = name.chars();
        let is_name = characters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && characters.all(|next| next.is_ascii_alphanumeric() || next == '_');
        if !is_name {
            return Err(format!(
                "the variable `{{{name}}}` must be a letter, followed by letters, digits or `_`"
            ));
        }
        return Ok(Segment::Variable(name.to_owned()));
    }
    let is_literal = |character: char| {
        character.is_ascii_alphanumeric() || ['-', '.', '_', '~'].contains(&character)
    };
    match text {
        "" => Err("it has an empty segment, or ends with `/`".to_owned()),
        "." | ".." => Err(format!("`{text}` is not a segment")),
        _ if text.chars().all(is_literal) => Ok(Segment::Literal(text.to_owned())),
        _ => Err(format!(
            "the segment `{text}` may have letters, digits and `-._~` only, or be one `{{variable}}`"
        )),
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PathTemplate {
    /// The text of the template.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its variables, in their order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Variable(name) => Some(name.as_str()),
        })
    }

    /// The first segment, which is no variable.
    fn first(&self) -> &str {
        match self.segments.first() {
            Some(Segment::Literal(first)) => first,
            Some(Segment::Variable(_)) | None => "",
        }
    }

    /// Returns the values of the variables if the template matches the decoded segments of a path.
    /// A variable matches any text but an empty one, `.` and `..`.
    fn matches(&self, path: &[String]) -> Option<Vec<(String, String)>> {
        if self.segments.len() != path.len() {
            return None;
        }
        let mut values = Vec::new();
        for (segment, text) in self.segments.iter().zip(path) {
            match segment {
                Segment::Literal(literal) if literal == text => {}
                Segment::Variable(name) if !["", ".", ".."].contains(&text.as_str()) => {
                    values.push((name.clone(), text.clone()));
                }
                Segment::Literal(_) | Segment::Variable(_) => return None,
            }
        }
        Some(values)
    }

    /// Whether a path exists that both templates match.
    fn overlaps(&self, other: &Self) -> bool {
        let both = |(a, b): (&Segment, &Segment)| match (a, b) {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            _ => true,
        };
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(both)
    }

    /// Whether both match the same paths: they differ at most in the names of variables.
    fn matches_same(&self, other: &Self) -> bool {
        self.overlaps(other) && self.order() == other.order()
    }

    /// The order in which templates are tried: a literal segment precedes a variable.
    fn order(&self) -> Vec<bool> {
        self.segments.iter().map(|segment| matches!(segment, Segment::Variable(_))).collect()
    }

    /// Whether this is the template `collection` with one variable behind it.
    pub fn is_item_of(&self, collection: &Self) -> bool {
        let Some((Segment::Variable(_), parent)) = self.segments.split_last() else { return false };
        parent == collection.segments
    }
}

/// A route: requests with this method, whose path the template matches, become one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The template of the path.
    pub path: PathTemplate,
    /// The event type.
    pub event: String,
}

impl Route {
    /// Parses a declaration.
    ///
    /// # Errors
    /// A message for the plugin's author.
    pub fn new(method: &str, path: &str, event: &str) -> Result<Self, String> {
        Ok(Self { method: method.parse()?, path: path.parse()?, event: event.to_owned() })
    }

    /// Whether both routes match the same requests.
    pub fn matches_same(&self, other: &Self) -> bool {
        self.method == other.method && self.path.matches_same(&other.path)
    }

    /// Whether a request exists that both routes match.
    fn overlaps(&self, other: &Self) -> bool {
        self.method == other.method && self.path.overlaps(&other.path)
    }
}

/// Method and path, as in a request.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_path_of_literals_and_whole_variables_outside_of_the_hosts_own_paths() {
        for (text, fault) in [
            ("/memory-logs", None),
            ("/memory-logs/{id}", None),
            ("/a.b/c_d/~e/{user_id}/F9", None),
            ("/apis/api", None),
            ("memory-logs", Some("begin")),
            ("/", Some("empty")),
            ("", Some("begin")),
            ("/a/", Some("empty")),
            ("//a", Some("empty")),
            ("/{id}", Some("first")),
            ("/a/../b", Some("not a segment")),
            ("/a b", Some("letters")),
            ("/a/{id}.json", Some("letters")),
            ("/a/{}", Some("variable")),
            ("/a/{9}", Some("variable")),
            ("/a/{x}/{x}", Some("same name")),
            ("/ä", Some("letters")),
            ("/a%20b", Some("letters")),
            ("/api/x", Some("belong to the host")),
            ("/socket.io", Some("belong to the host")),
            ("/metrics", Some("belong to the host")),
            ("/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17", Some("segments")),
        ] {
            let parsed = text.parse::<PathTemplate>();
            match (fault, parsed) {
                (None, Ok(template)) => assert_eq!(template.as_str(), text),
                (Some(part), Err(reason)) => assert!(reason.contains(part), "{text}: {reason}"),
                (_, parsed) => panic!("{text}: {parsed:?}"),
            }
        }
        let long = format!("/{}", "a".repeat(MAX_PATH));
        assert!(long.parse::<PathTemplate>().is_err());
    }

    #[test]
    fn a_method_is_written_as_in_a_request() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        assert!("get".parse::<Method>().is_err() && "HEAD".parse::<Method>().is_err());
    }

    #[test]
    fn an_item_is_its_collection_with_one_variable() {
        let template = |text: &str| text.parse::<PathTemplate>().unwrap();
        let collection = template("/memory-logs");
        assert!(template("/memory-logs/{id}").is_item_of(&collection));
        for other in ["/memory-logs", "/memory-logs/last", "/notes/{id}", "/memory-logs/{a}/{b}"] {
            assert!(!template(other).is_item_of(&collection), "{other}");
        }
    }
}
