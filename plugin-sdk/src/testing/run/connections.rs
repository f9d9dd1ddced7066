//! The interface `connections`.

use std::ops::Bound;
use std::rc::Rc;

use sockhop_core::effect::check_page;

use crate::connection::Connection;
use crate::host::ConnectionCalls;
use crate::refusal::Result;
use crate::testing::outcome::of_host;

use super::Run;

impl ConnectionCalls for Rc<Run> {
    fn connections(&self, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        check_page(limit).map_err(of_host)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let world = self.world.borrow();
        let connections = world
            .connected
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, connection)| connection.clone());
        Ok(connections.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }
}
