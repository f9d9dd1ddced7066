//! Migrations of stored records: new versions of a plugin convert them while they serve, through
//! kills of the host and rollbacks.

#![allow(clippy::print_stdout, reason = "the figures of a run by hand, with `--nocapture`")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::{Value, json};
use sockhop_core::key::encode_key;
use sockhop_tests::{
    HostProcess, TestClient, TestHost, binary, directory_of, drop_in, eventually, guest,
};

/// Owner and amount, by id.
type Accounts = BTreeMap<u64, (String, u64)>;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(usual)
}

fn account(id: u64) -> (String, u64) {
    (format!("owner{}", id % 997), id * 7)
}

/// The count in which a collection counts this record.
fn shard(id: &str) -> u64 {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % 16
}

/// The state of version 1 with these accounts, as `sockhop state export` writes it.
fn exported(accounts: &Accounts) -> String {
    let mut entries = vec![json!({
        "key": "@accounts/properties",
        "json": {"layout": 1, "holds": ["format.1", "index.owner.1"]},
    })];
    let mut counts = BTreeMap::<u64, u64>::new();
    for (id, (owner, cents)) in accounts {
        let (text, key) = (encode_key(id), encode_key(owner));
        *counts.entry(shard(&text)).or_default() += 1;
        entries.push(json!({
            "key": format!("@accounts/record/{text}"),
            "json": {
                "layout": 1, "format": 1, "keys": {"owner.1": [key]},
                "record": {"id": id, "owner": owner, "amount": cents},
            },
        }));
        entries.push(json!({"key": format!("@accounts/index/owner.1/{key}{text}"), "json": text}));
    }
    for (shard, count) in counts {
        entries.push(json!({"key": format!("@accounts/count/{shard:x}"), "json": count}));
    }
    let mut file = json!({
        "sockhop_state": 1, "plugin": "ledger", "commits": 1,
        "entries": entries.len(), "sequences": {},
    })
    .to_string();
    entries.iter().for_each(|entry| write!(file, "\n{entry}").expect("text"));
    file
}

/// Gives `ledger` these accounts in the format of version 1. No host runs.
fn import(data: &Path, accounts: &Accounts) {
    let file = data.join("accounts.jsonl");
    std::fs::write(&file, exported(accounts)).expect("a file");
    let mut command = Command::new(binary());
    command.args(["state", "import", "ledger", "--replace", "--data"]).arg(data).arg(file);
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A data directory in which version 1 has stored these accounts.
async fn stored(accounts: &Accounts) -> tempfile::TempDir {
    let data = tempfile::tempdir().expect("a directory");
    let plugins = directory_of(&[guest("ledger1")]);
    let mut host = HostProcess::start(plugins.path(), data.path());
    TestClient::connect(&host.url).await.ask("count", json!(null)).await;
    host.terminate();
    import(data.path(), accounts);
    data
}

fn file(data: &Path) -> Connection {
    let file = data.join("state/ledger.sqlite");
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a file")
}

/// How far the versions are, in the file of a host that was killed: `(done, has finished)`.
fn progress(data: &Path) -> Option<(u64, bool)> {
    let file = file(data);
    let row = file.query_row("SELECT done, finished IS NOT NULL FROM loads", [], |row| {
        Ok((row.get::<_, i64>(0)?.try_into().expect("a number"), row.get(1)?))
    });
    row.optional().unwrap_or_default()
}

/// Checks that the file has exactly these accounts in this format, with the entries of an index and
/// the counts that belong to them, and nothing else of the collection.
fn check(data: &Path, accounts: &Accounts, format: u64) {
    let file = file(data);
    let mut rows = file.prepare("SELECT key, value FROM entries").expect("the entries");
    let entries = rows
        .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))
        .expect("the entries");
    let (mut found, mut index, mut counts) = (Accounts::new(), BTreeMap::new(), BTreeMap::new());
    let mut wanted_index = BTreeMap::new();
    for entry in entries {
        let (key, value) = entry.expect("an entry");
        let key = String::from_utf8(key).expect("text");
        let value: Value = serde_json::from_slice(&value).expect("JSON");
        let rest = key.strip_prefix("@accounts/").expect("an entry of the collection");
        match rest.split_once('/') {
            None if rest == "properties" => {
                let holds = [format!("format.{format}"), "index.owner.2".to_owned()];
                assert_eq!(value, json!({"layout": 1, "holds": holds}));
            }
            Some(("record", text)) => {
                assert_eq!(value["format"], format, "{key}: {value}");
                let record = &value["record"];
                let id = record["id"].as_u64().expect("an id");
                assert_eq!(encode_key(&id), text);
                let [owner] = record["owners"].as_array().expect("owners").as_slice() else {
                    panic!("{value}")
                };
                let owner = owner.as_str().expect("text").to_owned();
                let cents = if format == 2 { &record["amount"] } else { &record["amounts"][0][1] };
                wanted_index.insert(format!("owner.2/{}{text}", encode_key(&owner)), json!(text));
                found.insert(id, (owner, cents.as_u64().expect("an amount")));
            }
            Some(("index", entry)) => drop(index.insert(entry.to_owned(), value)),
            Some(("count", shard)) => drop(counts.insert(shard.to_owned(), value)),
            _ => panic!("{key} is left: {value}"),
        }
    }
    assert!(found == *accounts, "{} of {} accounts", found.len(), accounts.len());
    assert!(index == wanted_index, "{} of {} entries", index.len(), wanted_index.len());
    let mut wanted_counts = BTreeMap::<String, u64>::new();
    for id in accounts.keys() {
        *wanted_counts.entry(format!("{:x}", shard(&encode_key(id)))).or_default() += 1;
    }
    let wanted: BTreeMap<_, _> =
        wanted_counts.into_iter().map(|(shard, count)| (shard, json!(count))).collect();
    assert_eq!(counts, wanted);
}

/// How far the version of a host's `ledger` is.
async fn load(host: &HostProcess) -> Value {
    let (url, key) = (host.url.clone(), host.key.clone());
    let ask = move || sockhop_tests::ask(&url, "/api/plugins/ledger", None, Some(&key));
    let (status, shown) = tokio::task::spawn_blocking(ask).await.expect("an answer");
    assert_eq!(status, 200, "{shown}");
    shown["load"].clone()
}

async fn finished(host: &HostProcess) {
    let is_over = async || (load(host).await["state"] == "finished").then_some(());
    eventually("the migration has finished", is_over).await;
}

/// `SOCKHOP_TEST_RECORDS` and `SOCKHOP_TEST_KILLS` set the numbers of records and kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_completes_although_the_host_is_killed_and_no_record_is_lost_or_misread() {
    let records = number("SOCKHOP_TEST_RECORDS", 10_000);
    let kills = number("SOCKHOP_TEST_KILLS", 5);
    let seed = number("SOCKHOP_TEST_SEED", 20_261_128);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut accounts: Accounts = (0..records).map(|id| (id, account(id))).collect();
    let began = Instant::now();
    let data = stored(&accounts).await;
    println!("seed {seed}: {records} records imported in {:?}", began.elapsed());
    let plugins = directory_of(&[guest("ledger2")]);
    let began = Instant::now();
    let mut seen = Vec::new();
    for round in 0..kills {
        let host = HostProcess::start(plugins.path(), data.path());
        let client = TestClient::connect(&host.url).await;
        let part = records / (kills + 1);
        let done = part * round + random.u64(0..part);
        // An acknowledged write survives, whether its record was converted before or not.
        while load(&host).await["done"].as_u64() < Some(done) {
            for _ in 0..random.u8(1..20) {
                let id = random.u64(0..records + 10);
                let (owner, cents) = (format!("new{}", random.u8(..)), random.u32(..).into());
                let put = json!({"id": id, "owner": owner, "cents": cents});
                assert_eq!(client.ask("put", put).await, json!(null));
                accounts.insert(id, (owner, cents));
            }
        }
        host.kill();
        seen.push(progress(data.path()).map_or(0, |(done, has_finished)| {
            assert!(!has_finished, "the kills must come earlier: {seen:?}");
            done
        }));
    }
    assert!(seen.is_sorted() && seen.last() > seen.first(), "each start goes on: {seen:?}");
    let mut host = HostProcess::start(plugins.path(), data.path());
    finished(&host).await;
    println!("killed after {seen:?} records; all migrated after {:?}", began.elapsed());
    let client = TestClient::connect(&host.url).await;
    assert_eq!(client.ask("count", json!(null)).await, json!(accounts.len()));
    host.terminate();
    check(data.path(), &accounts, 2);
}

/// The account as a client reads it, or the code of the rejection.
async fn get(client: &TestClient, id: u64) -> Result<(String, u64), String> {
    let answer = client.ask("get", json!(id)).await;
    match answer["error"]["code"].as_str() {
        Some(code) => Err(code.to_owned()),
        None => Ok((
            answer["owner"].as_str().expect("an owner").to_owned(),
            answer["cents"].as_u64().expect("an amount"),
        )),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_format_that_changes_twice_with_a_rollback_in_between_loses_and_misreads_nothing() {
    const RECORDS: u64 = 10_000;
    let mut accounts: Accounts = (0..RECORDS).map(|id| (id, account(id))).collect();
    let data = stored(&accounts).await;
    let plugins = directory_of(&[guest("ledger1")]);
    let mut host = HostProcess::start(plugins.path(), data.path());
    host.until("ledger", |row| row["version"] == "1.0.0");
    let version = |number: u32| std::fs::read(guest(&format!("ledger{number}"))).expect("a plugin");
    drop_in(plugins.path(), "ledger1.wasm", &version(2));
    let begun = async || {
        let load = load(&host).await;
        (load["state"] == "running" && load["done"].as_u64() > Some(0)).then_some(())
    };
    eventually("the migration has begun", begun).await;
    let client = TestClient::connect(&host.url).await;
    let new = ("new".to_owned(), 1);
    let put = |id: u64| json!({"id": id, "owner": "new", "cents": 1});
    assert_eq!(client.ask("put", put(RECORDS)).await, json!(null), "stored in format 2");
    accounts.insert(RECORDS, new.clone());

    // Version 1 reads what it has stored, and says clearly what is newer.
    let (status, answer) = host.http("/api/plugins/ledger/rollback", Some(json!({})));
    assert_eq!(status, 200, "{answer}");
    host.until("ledger", |row| row["version"] == "1.0.0" && row["draining"] == 0);
    let last = RECORDS - 1;
    assert_eq!(get(&client, last).await, Ok(account(last)), "not converted yet");
    for newer in [0, RECORDS] {
        assert_eq!(get(&client, newer).await, Err("plugin_failed".to_owned()));
        let kept = client.ask("put", put(newer)).await;
        assert_eq!(kept["error"]["code"], "plugin_failed", "a newer record is never replaced");
    }
    for older in [last, RECORDS + 1] {
        assert_eq!(client.ask("put", put(older)).await, json!(null));
        accounts.insert(older, new.clone());
    }
    assert_eq!(load(&host).await, Value::Null, "version 1 does not handle `$load`");

    drop_in(plugins.path(), "ledger1.wasm", &version(3));
    host.until("ledger", |row| row["version"] == "3.0.0");
    for id in [0, 5_000, last, RECORDS, RECORDS + 1] {
        assert_eq!(get(&client, id).await.as_ref(), Ok(&accounts[&id]), "while it migrates");
    }
    finished(&host).await;
    assert_eq!(client.ask("ids", json!("new")).await, json!([last, RECORDS, RECORDS + 1]));
    host.terminate();
    check(data.path(), &accounts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_answered_while_a_version_migrates() {
    const RECORDS: u64 = 10_000;
    let accounts: Accounts = (0..RECORDS).map(|id| (id, account(id))).collect();
    let data = stored(&accounts).await;
    let host = TestHost::with_data(&[guest("ledger2")], data.path()).await;
    let client = host.client().await;
    let (mut times, mut id) = (Vec::new(), 0);
    let load = async || host.http("/api/plugins/ledger", None).await.1["load"].clone();
    while load().await["state"] != "finished" {
        for _ in 0..20 {
            id = (id + 7919) % RECORDS;
            let asked = Instant::now();
            assert_eq!(get(&client, id).await, Ok(account(id)));
            times.push(asked.elapsed());
            let put = json!({"id": id, "owner": account(id).0, "cents": account(id).1});
            let asked = Instant::now();
            assert_eq!(client.ask("put", put).await, json!(null));
            times.push(asked.elapsed());
        }
    }
    times.sort_unstable();
    let [half, most] = [times.len() / 2, times.len() * 99 / 100].map(|at| times[at]);
    println!("{} events: half of them within {half:?}, 99 of 100 within {most:?}", times.len());
    assert!(times.len() >= 100 && most < Duration::from_secs(1), "{most:?}");
    host.stop().await;
    check(data.path(), &accounts, 2);
}
