//! The routes of all loaded plugins: which plugin a request reaches, and whether the declarations
//! of two plugins conflict.

use std::collections::{BTreeMap, BTreeSet};

use super::{Method, Route};

/// A route with the plugin that owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRoute {
    /// The route.
    pub route: Route,
    /// The plugin that declares it.
    pub owner: String,
}

/// The routes that all loaded plugins declare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// By the first segment of their paths. Literal segments precede variables.
    by_first: BTreeMap<String, Vec<OwnedRoute>>,
}

/// Another plugin declares a route for the same requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route `{route}` is taken by plugin `{by}`, as `{as_route}`; a request has one plugin")]
pub struct RouteTaken {
    /// The new route.
    pub route: String,
    /// The earlier route.
    pub as_route: String,
    /// The plugin that declared it earlier.
    pub by: String,
}

/// What a request reaches.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'table> {
    /// A route, with the names and values of the variables in its path.
    Route(&'table OwnedRoute, Vec<(String, String)>),
    /// The path exists, with these methods, which are not empty.
    Methods(Vec<Method>),
    /// There is nothing at this path.
    Nothing,
}

impl RouteTable {
    /// Checks whether `plugin` may declare `routes` beside those of the other plugins.
    ///
    /// # Errors
    /// Returns the first conflict.
    pub fn check(&self, plugin: &str, routes: &[Route]) -> Result<(), RouteTaken> {
        for route in routes {
            let taken = self
                .at(route.path.first())
                .iter()
                .find(|taken| taken.owner != plugin && taken.route.overlaps(route));
            if let Some(taken) = taken {
                return Err(RouteTaken {
                    route: route.to_string(),
                    as_route: taken.route.to_string(),
                    by: taken.owner.clone(),
                });
            }
        }
        Ok(())
    }

    /// Adds the routes of `plugin`.
    pub fn add(&mut self, plugin: &str, routes: &[Route]) {
        for route in routes {
            let at = self.by_first.entry(route.path.first().to_owned()).or_default();
            at.push(OwnedRoute { route: route.clone(), owner: plugin.to_owned() });
            at.sort_by_cached_key(|owned| owned.route.path.order());
        }
    }

    /// Finds the route of a request. `path` are the decoded segments of its path. `method` is
    /// `None` if no route can have the method of the request.
    pub fn find(&self, method: Option<Method>, path: &[String]) -> Found<'_> {
        let Some(first) = path.first() else { return Found::Nothing };
        let mut methods = BTreeSet::new();
        for owned in self.at(first) {
            let Some(variables) = owned.route.path.matches(path) else { continue };
            if Some(owned.route.method) == method {
                return Found::Route(owned, variables);
            }
            methods.insert(owned.route.method);
        }
        if methods.is_empty() {
            return Found::Nothing;
        }
        Found::Methods(methods.into_iter().collect())
    }

    /// Whether a route reads single items of the collection at which `collection` creates: GET,
    /// with one variable behind the path.
    pub fn reads_items_of(&self, collection: &Route) -> bool {
        let is_item = |owned: &OwnedRoute| {
            owned.route.method == Method::Get && owned.route.path.is_item_of(&collection.path)
        };
        self.at(collection.path.first()).iter().any(is_item)
    }

    fn at(&self, first: &str) -> &[OwnedRoute] {
        self.by_first.get(first).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(declared: &[(&str, &str)]) -> Vec<Route> {
        declared.iter().map(|(method, path)| Route::new(method, path, path).unwrap()).collect()
    }

    fn table(declared: &[(&str, &str)]) -> RouteTable {
        let mut table = RouteTable::default();
        table.add("logs", &routes(declared));
        table
    }

    fn path(text: &str) -> Vec<String> {
        text.split('/').skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn a_method_and_a_path_have_one_owner() {
        let table = table(&[("GET", "/logs/{id}"), ("POST", "/logs")]);
        let taken = |declared: &[(&str, &str)]| {
            table.check("other", &routes(declared)).map_err(|taken| taken.as_route)
        };
        assert_eq!(taken(&[("PUT", "/logs/{id}"), ("GET", "/logs"), ("GET", "/log/{id}")]), Ok(()));
        assert_eq!(taken(&[("POST", "/logs")]), Err("POST /logs".to_owned()));
        assert_eq!(taken(&[("GET", "/logs/{name}")]), Err("GET /logs/{id}".to_owned()));
        assert_eq!(taken(&[("GET", "/logs/last")]), Err("GET /logs/{id}".to_owned()));
        assert_eq!(table.check("logs", &routes(&[("GET", "/logs/last")])), Ok(()));
    }

    #[test]
    fn a_literal_segment_precedes_a_variable() {
        let table = table(&[
            ("GET", "/logs/{id}"),
            ("GET", "/logs/last"),
            ("GET", "/logs/{id}/parts"),
            ("DELETE", "/logs/{id}"),
        ]);
        let found = |method: &str, text: &str| match table.find(method.parse().ok(), &path(text)) {
            Found::Route(owned, values) => (owned.route.event.clone(), values),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(found("GET", "/logs/last"), ("/logs/last".to_owned(), vec![]));
        let id = |value: &str| vec![("id".to_owned(), value.to_owned())];
        assert_eq!(found("GET", "/logs/7"), ("/logs/{id}".to_owned(), id("7")));
        assert_eq!(found("DELETE", "/logs/last"), ("/logs/{id}".to_owned(), id("last")));
        assert_eq!(found("GET", "/logs/7/parts"), ("/logs/{id}/parts".to_owned(), id("7")));
    }

    #[test]
    fn a_path_with_other_methods_is_told_from_one_that_does_not_exist() {
        let table = table(&[("DELETE", "/logs/{id}"), ("GET", "/logs/{id}"), ("GET", "/logs")]);
        let find = |method: &str, text: &str| table.find(method.parse().ok(), &path(text));
        let both = || Found::Methods(vec![Method::Get, Method::Delete]);
        assert_eq!(find("POST", "/logs/7"), both());
        assert_eq!(find("OPTIONS", "/logs/7"), both());
        for nothing in ["/", "/log", "/logs/", "/logs/7/8", "/logs/.", "/logs/.."] {
            assert_eq!(find("GET", nothing), Found::Nothing, "{nothing}");
        }
    }

    #[test]
    fn the_items_of_a_collection_are_read_by_a_route_with_one_more_variable() {
        let posts = Route::new("POST", "/logs", "create").unwrap();
        assert!(table(&[("POST", "/logs"), ("GET", "/logs/{id}")]).reads_items_of(&posts));
        assert!(!table(&[("POST", "/logs"), ("DELETE", "/logs/{id}")]).reads_items_of(&posts));
    }
}
