//! Answers requests in place of the network, in a host that tests or checks plugins. The limits of
//! requests and responses are the same.

use std::fmt;
use std::sync::Arc;

use sockhop_core::outbound::{Request, Response};
use tokio_util::task::TaskTracker;

use crate::config::Config;

use super::client::ReadBody;
use super::memory::KeptResponse;
use super::secrets::Secrets;
use super::{Outbound, OutboundError, SendError};

/// Answers requests in place of the network. All that is checked before a request is sent was
/// checked.
pub(crate) trait StandIn: fmt::Debug + Send + Sync {
    /// Answers a request of `plugin`.
    ///
    /// # Errors
    /// Returns why there is no response.
    fn answer(&self, plugin: &str, request: &Request) -> Result<Response, SendError>;
}

/// Refuses every request for this reason.
#[derive(Debug)]
struct Refusing(&'static str);

impl StandIn for Refusing {
    fn answer(&self, _: &str, _: &Request) -> Result<Response, SendError> {
        Err(SendError::Unreachable(self.0.to_owned()))
    }
}

impl Outbound {
    /// Creates a client that sends nothing, and refuses every request for this reason.
    pub(crate) fn refusing(reason: &'static str) -> Self {
        Self { stand_in: Some(Arc::new(Refusing(reason))), ..Self::default() }
    }

    /// Creates a client that sends nothing: `stand_in` answers. Blocks: it reads the secrets.
    ///
    /// # Errors
    /// The configured secrets can't be used.
    pub(crate) fn stubbed(
        config: &Config,
        stand_in: Arc<dyn StandIn>,
    ) -> Result<Self, OutboundError> {
        let mut outbound = Self::new(&config.outbound, TaskTracker::default());
        outbound.secrets.store(Arc::new(Secrets::read(config)?));
        outbound.stand_in = Some(stand_in);
        Ok(outbound)
    }

    /// Answers a request without the network. The response has the limits of any other.
    pub(super) fn stand_in_for(
        &self,
        stand_in: &dyn StandIn,
        plugin: &str,
        request: &Request,
        body: ReadBody,
    ) -> Result<KeptResponse, SendError> {
        let mut response = stand_in.answer(plugin, request)?;
        match body {
            ReadBody::Whole(max) if response.body.len() > max => {
                return Err(SendError::TooLarge(format!("its body has more than {max} bytes")));
            }
            ReadBody::Whole(_) => {}
            ReadBody::Dropped(_) => response.body = Vec::new(),
        }
        let mut memory = self.memory.reserve();
        memory.add(response.body.len())?;
        Ok(KeptResponse::new(response, memory))
    }
}
