//! A client that uses HTTP long-polling and polls only when a test says so. Until then, the packets
//! wait in the host.

use sockhop::config::SocketIo;

use crate::api;

/// A session that is connected to the main namespace.
pub struct PollingSession {
    url: String,
}

impl PollingSession {
    /// Connects to the host at `url`.
    pub async fn connect(url: &str) -> Self {
        let url = format!("{url}/socket.io/?EIO=4&transport=polling");
        let open = request(&url, None).await.expect("an open packet");
        let sid = open.split('"').nth(3).expect("a session's id");
        let session = Self { url: format!("{url}&sid={sid}") };
        session.send("40").await;
        // The library sends its first ping at once, before or after the connect packet.
        let is_pinged = crate::socketio() == SocketIo::Socketioxide;
        let mut packets = String::new();
        while !(packets.contains("40{")
            && (!is_pinged || packets.split('\u{1e}').any(|packet| packet == "2")))
        {
            packets += &session.poll().await.expect("a connect packet and a ping");
            packets.push('\u{1e}');
        }
        if is_pinged {
            session.send("3").await;
        }
        session
    }

    /// The id of the session.
    pub fn sid(&self) -> &str {
        self.url.rsplit_once("sid=").map_or("", |(_, sid)| sid)
    }

    /// Sends an Engine.IO packet.
    pub async fn send(&self, packet: &str) {
        assert!(self.try_send(packet).await);
    }

    /// Sends a packet while the session may end. Returns whether the packet was received.
    pub async fn try_send(&self, packet: &str) -> bool {
        request(&self.url, Some(packet)).await.as_deref() == Some("ok")
    }

    /// Returns the waiting packets, or waits for the next one. Returns `None` if the session has
    /// ended.
    pub async fn poll(&self) -> Option<String> {
        request(&self.url, None).await
    }
}

async fn request(url: &str, packet: Option<&str>) -> Option<String> {
    let (url, packet) = (url.to_owned(), packet.map(str::to_owned));
    let (status, body) = tokio::task::spawn_blocking(move || api::ask_text(&url, packet))
        .await
        .expect("an answer over HTTP");
    (status == 200).then_some(body)
}
