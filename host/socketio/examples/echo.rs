//! An Engine.IO server that sends every message back: the server for the official `engine.io`
//! test suite. See the documentation of the crate for the command.
//!
//! Settings, from the environment: `PORT` (3000), `PATH_PREFIX` (`/engine.io`), `PING_INTERVAL` and
//! `PING_TIMEOUT` (300 and 200 ms, as the suite needs them).
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sockhop_socketio::engineio::{Abort, Batch, Config, End, Engine};
use sockhop_socketio::engineio::{Protocol, Refused, Service, Session};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

struct Echo(Arc<Session>);

impl Protocol for Echo {
    async fn text(&mut self, text: &str, _batch: &Batch) -> Result<(), End> {
        self.0.text(&[text.as_bytes()], &[]);
        Ok(())
    }

    async fn binary(&mut self, data: &[u8], _batch: &Batch) -> Result<(), End> {
        self.0.binary(data);
        Ok(())
    }

    async fn closed(&mut self, _end: End, _batch: &Batch) {}
}

struct EchoService;

impl Service for EchoService {
    type Protocol = Echo;

    fn open(self: &Arc<Self>, session: &Arc<Session>, _request: &Parts) -> Result<Echo, Refused> {
        session.connected();
        Ok(Echo(Arc::clone(session)))
    }
}

fn variable<T: std::str::FromStr>(name: &str, default: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name}={value}")),
        Err(_) => Ok(default),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config {
        path: variable("PATH_PREFIX", "/engine.io".to_owned())?,
        ping_interval: Duration::from_millis(variable("PING_INTERVAL", 300)?),
        ping_timeout: Duration::from_millis(variable("PING_TIMEOUT", 200)?),
        ..Config::default()
    };
    let engine = Engine::new(config, Arc::new(EchoService));
    let listener = TcpListener::bind(("127.0.0.1", variable("PORT", 3000)?)).await?;
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(serve(Arc::clone(&engine), stream));
            }
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                engine.close();
                engine.wait().await;
                return Ok(());
            }
        }
    }
}

async fn serve(engine: Arc<Engine<EchoService>>, stream: TcpStream) {
    let service = service_fn(|request| {
        let engine = Arc::clone(&engine);
        async move {
            if engine.serves(request.uri().path()) {
                return engine.handle::<TokioIo<TcpStream>, _>(request).await;
            }
            Err(Abort)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that goes away is no error of the server.
    let _ = served.await;
}
