//! Many clients that do everything at once, on several threads.
use std::sync::Arc;
use std::time::Duration;

use sockhop_socketio::engineio::Config;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::raw::{Raw, UPGRADE, connect, masked, open_polling, request};
use crate::server::Server;

/// Random enough to differ between the clients, and the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One client that behaves badly.
async fn misbehave(port: u16, random: &mut Random) {
    if random.below(3) == 0 {
        let (mut raw, _) = connect(port).await;
        for _ in 0..random.below(5) {
            let sent = match random.below(6) {
                0 => masked(0x81, b"4page:100000"),
                1 => masked(0x01, b"4a part"),
                2 => masked(0x81, b"4sleep:3"),
                3 => masked(0x81, b"4end"),
                4 => masked(0x81, b"1"),
                _ => masked(0x82, &[1; 300]),
            };
            let len = sent.len() - usize::from(random.below(8) == 0);
            raw.write(&sent[..len]).await;
        }
        return;
    }
    let path = open_polling(port).await;
    let line = format!("GET {path}&transport=polling");
    let posting = format!("POST {path}&transport=polling");
    let websocket = format!("GET {path}&transport=websocket");
    let mut waiting = Raw::connect(port).await;
    for _ in 0..random.below(6) {
        match random.below(7) {
            0 => waiting.request(&line, "", "").await,
            1 => drop(request(port, &posting, "", "4one\x1e4sleep:2\x1e4two").await),
            2 => drop(timeout(Duration::from_millis(5), request(port, &line, "", "")).await),
            3 => drop(request(port, &posting, "", "4end").await),
            4 => drop(request(port, &posting, "", "1").await),
            5 => waiting = Raw::connect(port).await,
            _ => {
                let mut raw = Raw::connect(port).await;
                raw.request(&websocket, UPGRADE, "").await;
                if raw.answer().await.is_none_or(|answer| answer.status != 101) {
                    continue;
                }
                let steps = [masked(0x81, b"2probe"), masked(0x81, b"5"), masked(0x81, b"4page:9")];
                let count = random.index(4);
                let bytes = steps[..count].concat();
                raw.write(bytes).await;
                if random.below(2) == 0 {
                    let _ = timeout(Duration::from_millis(5), raw.end()).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_leaves_nothing_and_does_not_disturb_others() {
    let millis = Duration::from_millis;
    let config = Config {
        ping_timeout: millis(1000),
        ping_interval: millis(400),
        upgrade_timeout: millis(100),
        receive_timeout: millis(100),
        delivery_timeout: millis(50),
        linger: millis(50),
        ..Config::default()
    };
    let server = Arc::new(Server::start(config).await);
    let clients = TaskTracker::new();
    let until = Instant::now() + Duration::from_secs(2);
    for seed in 1..=8 {
        let port = server.port;
        clients.spawn(async move {
            let mut random = Random::new(seed);
            while Instant::now() < until {
                misbehave(port, &mut random).await;
            }
        });
    }
    let (mut honest, _) = connect(server.port).await;
    let mut number = 0;
    while Instant::now() < until {
        honest.text(&format!("4{number}")).await;
        loop {
            match &*honest.read_text().await {
                "2" => honest.text("3").await,
                text => {
                    assert_eq!(text, format!("4{number}"));
                    break;
                }
            }
        }
        number += 1;
    }
    clients.close();
    clients.wait().await;
    drop(honest);
    assert!(server.ends().len() > 5, "{}", server.ends().len());
    server.empty().await;
    let opened = server.ends().len();
    server.engine.close();
    server.engine.wait().await;
    assert_eq!(server.ends().len(), opened);
}
