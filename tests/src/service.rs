//! A small HTTP server in the test's own process that plugins send requests to. It does what the
//! path of a request says, also what no server should do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::{Identity, eventually};

/// A server that ends with the test.
pub struct Service {
    /// Where it listens, on loopback.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// Answers that wait to be released.
    waiting: AtomicUsize,
    /// One for each request whose answer may end, such as that to `/hold`.
    released: Semaphore,
    /// The status with which `/status` answers.
    status: AtomicU16,
    /// Requests to `/cut_once`.
    cut: AtomicUsize,
}

/// Counts a connection while it exists.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_open.fetch_max(open, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// Starts a server with TLS.
    pub async fn with_tls(identity: &Identity) -> Self {
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let config = config.with_no_client_auth();
        let config = config.with_single_cert(vec![identity.der.clone().into()], key);
        Self::with(Some(TlsAcceptor::from(Arc::new(config.expect("a certificate"))))).await
    }

    /// Starts a server on an address where nobody listens.
    pub async fn at(address: SocketAddr) -> Self {
        Self::on(TcpListener::bind(address).await.expect("a free address"), None)
    }

    async fn with(tls: Option<TlsAcceptor>) -> Self {
        Self::on(TcpListener::bind(("127.0.0.1", 0)).await.expect("a port"), tls)
    }

    fn on(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            released: Semaphore::new(0),
            status: AtomicU16::new(200),
            cut: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (open, tls) = (Open::new(&accepting), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &open.0).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &open.0).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, shared }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far, with head and body.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("the requests").clone()
    }

    /// Lets `/status` answer with this status from now on.
    pub fn answer_with(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The largest number of connections at once so far.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// Waits until so many connections are open.
    pub async fn until_open(&self, number: usize) {
        let open = async || (self.shared.open.load(Ordering::SeqCst) == number).then_some(());
        eventually(&format!("{number} connections are open"), open).await;
    }

    /// Waits until there were so many requests.
    pub async fn until_requests(&self, number: usize) {
        let are = async || (self.requests().len() >= number).then_some(());
        eventually(&format!("{number} requests"), are).await;
    }

    /// Waits until so many answers wait for [`release`](Self::release).
    pub async fn until_waiting(&self, number: usize) {
        let wait = async || (self.shared.waiting.load(Ordering::SeqCst) == number).then_some(());
        eventually(&format!("{number} answers wait"), wait).await;
    }

    /// Ends so many answers that wait for it, such as that to `/hold`, now or later.
    pub fn release(&self, number: usize) {
        self.shared.released.add_permits(number);
    }
}

/// Reads a request, and does what its path says. Returns when the client has disconnected.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let (mut reader, mut stream) = tokio::io::split(stream);
    let Some(request) = read(&mut reader).await else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    shared.requests.lock().expect("the requests").push(request.clone());
    let answer = async {
        match path.as_str() {
            "/hold" => {
                released(shared).await;
                whole(&mut stream, "200 OK", "", b"held").await
            }
            "/status" => {
                let status = shared.status.load(Ordering::SeqCst);
                whole(&mut stream, &format!("{status} Status"), "", b"status").await
            }
            "/cut_once" if shared.cut.fetch_add(1, Ordering::SeqCst) == 0 => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort").await
            }
            _ if path.starts_with("/status/") => {
                let status = path.trim_start_matches("/status/");
                whole(&mut stream, &format!("{status} Status"), "retry-after: 7200\r\n", b"").await
            }
            "/echo" => whole(&mut stream, "200 OK", "x-own: 1\r\n", request.as_bytes()).await,
            "/gzip" => {
                whole(&mut stream, "200 OK", "content-encoding: gzip\r\n", b"\x1f\x8b").await
            }
            "/teapot" => whole(&mut stream, "418 Teapot", "", b"short").await,
            "/never" => std::future::pending().await,
            "/half_head" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await?;
                std::future::pending().await
            }
            "/long_head" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                loop {
                    stream.write_all(&[b"x: ".as_slice(), &[b'x'; 1000], b"\r\n"].concat()).await?;
                }
            }
            "/garbage" => stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n").await,
            "/cut" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort").await,
            "/close" => Ok(()),
            "/promise" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n").await?;
                std::future::pending().await
            }
            "/endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    stream
                        .write_all(&[b"400\r\n".as_slice(), &[b'x'; 0x400], b"\r\n"].concat())
                        .await?;
                }
            }
            "/drip" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n").await?;
                for _ in 0..2000 {
                    stream.write_all(b"x").await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                Ok(())
            }
            _ if path.starts_with("/single_bytes/") => {
                let bytes = path.trim_start_matches("/single_bytes/").parse().expect("a number");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes + 1);
                stream.write_all(head.as_bytes()).await?;
                for _ in 0..bytes {
                    stream.write_all(b"x").await?;
                    tokio::task::yield_now().await;
                }
                released(shared).await;
                stream.write_all(b"x").await
            }
            _ if path.starts_with("/single_chunks/") => {
                let chunks = path.trim_start_matches("/single_chunks/").parse().expect("a number");
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                stream.write_all(&b"1\r\nx\r\n".repeat(chunks)).await?;
                released(shared).await;
                stream.write_all(b"0\r\n\r\n").await
            }
            _ if path.starts_with("/redirect?") => {
                let to = path.trim_start_matches("/redirect?");
                whole(&mut stream, "302 Found", &format!("location: {to}\r\n"), b"").await
            }
            _ if path.starts_with("/bytes/") => {
                let bytes = path.trim_start_matches("/bytes/").parse().expect("a number");
                whole(&mut stream, "200 OK", "", &vec![b'x'; bytes]).await
            }
            _ => whole(&mut stream, "200 OK", "", b"hello").await,
        }
    };
    let closed = async { while reader.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        _ = answer => {}
        () = closed => {}
    }
    let _ = stream.shutdown().await;
}

async fn released(shared: &Shared) {
    shared.waiting.fetch_add(1, Ordering::SeqCst);
    shared.released.acquire().await.expect("never closed").forget();
    shared.waiting.fetch_sub(1, Ordering::SeqCst);
}

async fn whole(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&more[..read]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().expect("a length")) {
                return Some(text);
            }
        }
    }
}
