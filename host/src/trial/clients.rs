//! Virtual clients: how they connect, what they send, and what they receive. They enter, send and
//! leave by the same functions as clients with a transport.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;

use crate::auth::{self, Credentials};
use crate::config::{AuthConfig, AuthMode, QUEUE_SHARE, TokenAlgorithm, TokenKey};
use crate::event::Connection;
use crate::scenario::{Answered, ClientSpec};
use crate::socketio::recorded::{CLOSED, Inbox};
use crate::socketio::{Client, Clients, Incoming, Newcomer};

use super::{Trial, TrialError, shown};

/// When the tokens of virtual clients expire, in seconds since 1970: in the year 2100.
const EXPIRES: u64 = 4_102_444_800;

/// A client without a transport.
pub(super) struct VirtualClient {
    client: Arc<dyn Client>,
    connection: Arc<Connection>,
    inbox: Arc<Inbox>,
    acks: u64,
}

/// An event that a virtual client sends.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Its name.
    pub event: String,
    /// Its arguments.
    pub arguments: Vec<Value>,
    /// Its attachments.
    pub attachments: Vec<Vec<u8>>,
    /// Whether the client asks for an ack.
    pub ack: bool,
}

impl Trial {
    /// Connects a client.
    ///
    /// # Errors
    /// Returns why it can't connect.
    pub async fn connect(&mut self, name: &str, spec: &ClientSpec) -> Result<(), String> {
        if self.clients.contains_key(name) {
            return Err(format!("{name} is connected already"));
        }
        let namespace = spec.namespace.as_deref().unwrap_or("/");
        let config = self.config.get().clone();
        if !config.server.namespaces.iter().any(|known| known == namespace) {
            let known = config.server.namespaces.join(", ");
            return Err(format!(
                "the host has no namespace {namespace}, only {known}; add it to `namespaces` in \
                 [server] of a configuration, and name that with --config"
            ));
        }
        let query = spec.query.as_deref().unwrap_or_default();
        let newcomer = Newcomer {
            sid: format!("sid-{name}"),
            namespace: namespace.into(),
            address: None,
            credentials: self.credentials(spec)?,
            query: self.sockets.handshake_bytes().map(|_| query.into()),
            slot: None,
        };
        let client = self.sockets.prepare(newcomer).await;
        let client = client.map_err(|refusal| format!("{name} can't connect: {refusal}"))?;
        let inbox = Inbox::new(config.limits.overflow_bytes.get() / QUEUE_SHARE);
        client.enter(inbox.link(None));
        let connection = self.rooms.connection(Some(namespace), client.id());
        let connection = connection.ok_or("the connection is not known")?;
        Arc::clone(&client).begin();
        let known = VirtualClient { client, connection: Arc::clone(&connection), inbox, acks: 0 };
        self.clients.insert(name.to_owned(), known);
        self.host_events_settled().await?;
        for room in &spec.rooms {
            self.join(&connection, room)?;
        }
        Ok(())
    }

    /// Joins a client to a room, as a handler of the room's plugin may.
    fn join(&self, connection: &Connection, room: &str) -> Result<(), String> {
        let generation = self.registry.snapshot();
        let mut refused = None;
        for active in &generation.plugins {
            match generation.may_join(room, &connection.identity(), active.code.name()) {
                Ok(()) => {
                    self.rooms.join(connection, room);
                    return Ok(());
                }
                Err(reason) => refused = Some(reason),
            }
        }
        let reason = refused.map(|reason| reason.refusal(room).message);
        let reason = reason.unwrap_or_else(|| "there is no plugin".to_owned());
        Err(format!("a client can't be in the room `{room}`: {reason}"))
    }

    /// What a client sends to prove who it is.
    fn credentials(&self, spec: &ClientSpec) -> Result<Credentials, String> {
        let mut auth = spec.auth.clone();
        if let Some(user) = &spec.user {
            let mut claims = spec.claims.clone();
            claims.insert("sub".to_owned(), Value::from(user.as_str()));
            claims.insert("roles".to_owned(), json!(spec.roles));
            claims.insert("exp".to_owned(), EXPIRES.into());
            let token = auth::sign(&self.auth, None, &claims).map_err(|error| error.to_string())?;
            auth.insert("token".to_owned(), token.into());
        } else if !spec.roles.is_empty() || !spec.claims.is_empty() {
            return Err("a client with roles or claims needs a `user`".to_owned());
        }
        let auth = Value::Object(auth).to_string();
        Ok(Credentials { auth: Some(auth.into()), bearer: None })
    }

    fn client(&mut self, name: &str) -> Result<&mut VirtualClient, String> {
        self.clients.get_mut(name).ok_or_else(|| format!("{name} is not connected"))
    }

    /// Sends an event, and waits until it is answered and its effects are applied.
    ///
    /// # Errors
    /// The client is not connected.
    pub async fn send(&mut self, name: &str, sent: &Sent) -> Result<Answered, String> {
        let from = self.client(name)?;
        from.acks += 1;
        let ack = sent.ack.then_some(from.acks);
        let arguments: Vec<_> = sent.arguments.iter().map(Value::to_string).collect();
        let arguments = arguments.join(",");
        let attachments = sent.attachments.iter().cloned().map(Bytes::from).collect();
        let incoming = Incoming {
            call: Some((sent.event.as_str().into(), &arguments)),
            bytes: sent.event.len() + arguments.len() + 5,
            attachments,
            ack,
        };
        let answered = TaskTracker::new();
        let link = from.inbox.link(Some(answered.token()));
        Arc::clone(&from.client).event(incoming, link, None);
        answered.close();
        answered.wait().await;
        Ok(match ack {
            Some(id) => from.inbox.take_ack(id).map_or(Answered::Nothing, answer),
            None => Answered::Nothing,
        })
    }

    /// Disconnects a client.
    ///
    /// # Errors
    /// The client is not connected.
    pub async fn disconnect(&mut self, name: &str) -> Result<(), String> {
        let gone = self.clients.remove(name).ok_or_else(|| format!("{name} is not connected"))?;
        gone.client.leave("client namespace disconnect").await;
        Ok(())
    }

    /// Removes the clients whose connections the host has ended, and tells plugins so. Returns
    /// their names, each with the reason if the host has cut the connection.
    pub async fn remove_ended(&mut self) -> Vec<(String, Option<&'static str>)> {
        let mut ended = Vec::new();
        let names: Vec<_> = self.clients.keys().cloned().collect();
        for name in names {
            let end = self.clients.get(&name).and_then(|client| client.inbox.end());
            if let Some(reason) = end
                && let Some(gone) = self.clients.remove(&name)
            {
                let is_cut = reason != CLOSED;
                let word =
                    if is_cut { "forced server close" } else { "server namespace disconnect" };
                gone.client.leave(word).await;
                ended.push((name, is_cut.then_some(reason)));
            }
        }
        ended
    }

    /// Returns the events that each connected client has received since the last call.
    pub fn take_received(&self) -> BTreeMap<String, Vec<Value>> {
        let received = |(name, client): (&String, &VirtualClient)| {
            let messages = client.inbox.take();
            (name.clone(), messages.iter().filter_map(|message| shown::event(message)).collect())
        };
        self.clients.iter().map(received).collect()
    }

    /// The rooms of a client.
    ///
    /// # Errors
    /// The client is not connected.
    pub fn rooms(&mut self, name: &str) -> Result<Vec<String>, String> {
        let connection = Arc::clone(&self.client(name)?.connection);
        let mut rooms = self.rooms.of(&connection);
        rooms.sort();
        Ok(rooms)
    }
}

/// Virtual clients are known by tokens that the trial itself signs: then their identities take the
/// way of all others.
pub(super) fn auth_of_clients() -> Result<AuthConfig, TrialError> {
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(|error| TrialError::Host(error.to_string()))?;
    let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = TokenKey {
        algorithm: TokenAlgorithm::HS256,
        kid: None,
        secret: Some(secret),
        secret_file: None,
        public_key_file: None,
    };
    let mode = AuthMode::Jwt;
    Ok(AuthConfig { mode, anonymous: true, keys: vec![key], ..AuthConfig::default() })
}

fn answer(text: String) -> Answered {
    let mut arguments = shown::arguments(&text);
    let error = arguments.first_mut().and_then(Value::as_object_mut);
    match error.and_then(|first: &mut Map<_, _>| first.remove("error")) {
        Some(error) => Answered::Error(error),
        None => Answered::Ack(arguments),
    }
}
