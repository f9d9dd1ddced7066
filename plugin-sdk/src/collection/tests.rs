//! Tests of collections: what plugin authors and operators rely on.

mod bounds;
mod fake;
mod formats;
mod migrations;
mod model;
mod queries;
mod versions;
mod writes;
