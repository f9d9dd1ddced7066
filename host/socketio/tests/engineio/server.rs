//! An Engine.IO server whose sessions execute commands of their client.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sockhop_socketio::engineio::{Abort, Batch, Config, End, Engine, Io};
use sockhop_socketio::engineio::{Protocol, Refused, Service, Session, Usage};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Sends every message back, except for commands: `page:N` asks for N bytes, `sleep:MS` is answered
/// later, `spin:US` keeps the processor, `packet:begin` and `packet:finish` stand for attachments,
/// and `end`, `abort` and `panic` do this to the session.
pub(crate) struct Echo {
    session: Arc<Session>,
    service: Arc<EchoService>,
    sleeps_in_binary: bool,
}

impl Protocol for Echo {
    async fn text(&mut self, text: &str, _batch: &Batch) -> Result<(), End> {
        let (command, value) = text.split_once(':').unwrap_or((text, ""));
        match command {
            "page" => {
                self.session.text(&[&vec![b'p'; value.parse().unwrap()]], &[]);
            }
            "sleep" => {
                self.session.text(&[b"asleep"], &[]);
                tokio::time::sleep(Duration::from_millis(value.parse().unwrap())).await;
                self.session.text(&[b"awake"], &[]);
            }
            "sleep-in-binary" => self.sleeps_in_binary = true,
            "spin" => {
                let until =
                    std::time::Instant::now() + Duration::from_micros(value.parse().unwrap());
                while std::time::Instant::now() < until {}
                self.service.spun.fetch_add(1, Ordering::Relaxed);
            }
            "packet" if value == "begin" => self.session.begin_packet(),
            "packet" => self.session.finish_packet(),
            "end" => {
                self.session.text(&[b"bye"], &[]);
                self.session.end(End::Server);
            }
            "abort" => self.session.end(End::Aborted),
            "panic" => panic!("as the client wanted"),
            _ => {
                self.session.text(&[text.as_bytes()], &[]);
            }
        }
        Ok(())
    }

    async fn binary(&mut self, data: &[u8], _batch: &Batch) -> Result<(), End> {
        if self.sleeps_in_binary {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self.session.binary(data);
        Ok(())
    }

    async fn closed(&mut self, end: End, _batch: &Batch) {
        self.service.ends.lock().unwrap().push(end);
        let _ = self.service.gate.acquire().await.unwrap();
    }
}

/// The sessions of the server, and their ends, for the test.
pub(crate) struct EchoService {
    pub(crate) ends: Mutex<Vec<End>>,
    pub(crate) sessions: Mutex<Vec<Arc<Session>>>,
    /// `spin` commands that were handled.
    pub(crate) spun: AtomicUsize,
    /// `closed` returns while it has a permit.
    pub(crate) gate: Semaphore,
}

impl Service for EchoService {
    type Protocol = Echo;

    fn open(self: &Arc<Self>, session: &Arc<Session>, request: &Parts) -> Result<Echo, Refused> {
        if request.uri.query().is_some_and(|query| query.contains("refuse")) {
            let message = "not \"you\"".to_owned();
            return Err(Refused { status: http::StatusCode::FORBIDDEN, message });
        }
        session.connected();
        self.sessions.lock().unwrap().push(Arc::clone(session));
        let (session, service) = (Arc::clone(session), Arc::clone(self));
        Ok(Echo { session, service, sleeps_in_binary: false })
    }
}

pub(crate) struct Server {
    pub(crate) engine: Arc<Engine<EchoService>>,
    pub(crate) port: u16,
    tasks: TaskTracker,
}

impl Server {
    pub(crate) async fn start(config: Config) -> Self {
        Self::with(config, TokioIo::new).await
    }

    /// Serves each connection with the wrapper that `wrap` makes.
    pub(crate) async fn with<I: Io>(
        config: Config,
        wrap: impl Fn(TcpStream) -> I + Send + 'static,
    ) -> Self {
        let service = EchoService {
            ends: Mutex::default(),
            sessions: Mutex::default(),
            spun: AtomicUsize::new(0),
            gate: Semaphore::new(1),
        };
        let engine = Engine::new(config, Arc::new(service));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tasks = TaskTracker::new();
        let (accepting, connections) = (Arc::clone(&engine), tasks.clone());
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let engine = Arc::clone(&accepting);
                let stream = wrap(stream);
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let engine = Arc::clone(&engine);
                        async move {
                            if !engine.serves(request.uri().path()) {
                                return Err(Abort);
                            }
                            engine.handle::<I, _>(request).await
                        }
                    });
                    let http = http1::Builder::new();
                    let _ = http.serve_connection(stream, service).with_upgrades().await;
                });
            }
        });
        Self { engine, port, tasks }
    }

    pub(crate) fn ends(&self) -> Vec<End> {
        self.engine.service().ends.lock().unwrap().clone()
    }

    pub(crate) fn spun(&self) -> usize {
        self.engine.service().spun.load(Ordering::Relaxed)
    }

    pub(crate) fn session(&self, index: usize) -> Arc<Session> {
        Arc::clone(&self.engine.service().sessions.lock().unwrap()[index])
    }

    /// Waits until sessions have ended, for these reasons, in this order.
    pub(crate) async fn ended(&self, ends: &[End]) {
        eventually(|| self.ends().len() >= ends.len()).await;
        assert_eq!(self.ends(), ends);
    }

    /// Waits until nothing of any session is left.
    pub(crate) async fn empty(&self) {
        self.engine.service().sessions.lock().unwrap().clear();
        eventually(|| self.engine.usage() == Usage::default()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.close();
    }
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    let started = tokio::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "it has not become so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
