//! A way from a client to the server that a test can cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_open, mut state) = watch::channel(true);
        TaskTracker::new().spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (mut client, _) = accepted.unwrap();
                        if *state.borrow() {
                            connections.spawn(async move {
                                let mut server = TcpStream::connect(server).await?;
                                copy_bidirectional(&mut client, &mut server).await
                            });
                        }
                    }
                    changed = state.changed() => match changed {
                        Ok(()) if *state.borrow() => {}
                        Ok(()) => connections.abort_all(),
                        Err(_) => return,
                    }
                }
            }
        });
        Self { address, is_open }
    }

    /// Cuts all connections, and each new one at once, until [`restore`](Self::restore).
    pub(crate) fn cut(&self) {
        self.is_open.send_replace(false);
    }

    pub(crate) fn restore(&self) {
        self.is_open.send_replace(true);
    }
}
