//! The bound, the order and the retries of a backlog.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::event::{Connection, Identity};

const BOUND: usize = 12;
const MOST: usize = 3;

fn connection(number: usize) -> Arc<Connection> {
    Arc::new(Connection::new(
        String::new(),
        number.to_string(),
        "/".into(),
        Arc::new(Identity::default()),
        None,
    ))
}

fn backlog() -> Backlog {
    Backlog::new("plugin".into())
}

fn pending(kind: HostEventKind) -> Pending {
    Pending::new(Arc::new(HostEvent::new(kind, Recipients::All)), None)
}

fn connect(connection: &Arc<Connection>) -> Pending {
    pending(HostEventKind::Connect(Arc::clone(connection)))
}

fn disconnect(connection: &Arc<Connection>) -> Pending {
    pending(HostEventKind::Disconnect(Arc::clone(connection)))
}

fn is_resync(pending: Option<&Pending>) -> bool {
    pending.is_some_and(|pending| matches!(pending.event.kind, HostEventKind::Resync))
}

/// The connections that a plugin believes to be open, from the events that it was told.
#[derive(Default)]
struct Told {
    connected: HashMap<String, bool>,
}

impl Told {
    fn handle(&mut self, event: &HostEvent, seen: Vec<String>) {
        match &event.kind {
            HostEventKind::Connect(connection) => {
                let before = self.connected.insert(connection.public_id.clone(), true);
                assert_eq!(before, None, "connected once");
            }
            HostEventKind::Disconnect(connection) => {
                let before = self.connected.insert(connection.public_id.clone(), false);
                assert_eq!(before, Some(true), "disconnected once, after it was connected");
            }
            HostEventKind::Resync => {
                self.connected = seen.into_iter().map(|id| (id, true)).collect()
            }
            HostEventKind::Start | HostEventKind::Room(_) => {}
        }
    }
}

#[test]
fn a_task_of_a_removed_plugin_does_not_touch_the_backlog_of_the_plugin_that_came_back() {
    let (removed, new) = (backlog(), backlog());
    let (task, task_of_new) = (Arc::clone(removed.plugin()), Arc::clone(new.plugin()));
    let mut backlogs = Backlogs::from([(Arc::clone(&task), removed)]);
    assert!(of_task(&mut backlogs, &task).is_some());
    backlogs.clear();
    assert!(of_task(&mut backlogs, &task).is_none());
    backlogs.insert(Arc::clone(&task_of_new), new);
    assert!(of_task(&mut backlogs, &task).is_none());
    assert!(of_task(&mut backlogs, &task_of_new).is_some());
}

#[test]
fn events_wait_in_order_while_the_plugin_is_away() {
    let one = connection(1);
    let mut backlog = backlog();
    assert!(!backlog.attach(&[host_event::CONNECT, host_event::DISCONNECT], BOUND).was_away);
    assert!(backlog.push(connect(&one), BOUND, false).is_empty());
    assert_eq!(backlog.detach().len(), 0);
    assert!(backlog.next(MOST).is_none() && !backlog.add_worker(MOST), "no task waits for it");
    let while_away = |backlog: &mut Backlog, kind| {
        let event = Arc::new(HostEvent::new(kind, Recipients::All));
        backlog.push_while_away(&event).map(|dropped| dropped.len())
    };
    assert_eq!(while_away(&mut backlog, HostEventKind::Disconnect(Arc::clone(&one))), Some(0));
    assert_eq!(while_away(&mut backlog, HostEventKind::Start), None, "it does not listen for it");
    assert!(backlog.attach(&[host_event::CONNECT, host_event::DISCONNECT], BOUND).was_away);
    assert_eq!(while_away(&mut backlog, HostEventKind::Disconnect(Arc::clone(&one))), None);
    assert!(backlog.add_worker(MOST));
    for name in [host_event::CONNECT, host_event::DISCONNECT] {
        let pending = backlog.next(MOST).unwrap();
        assert_eq!(pending.event.kind.name(), name);
        backlog.done(&pending);
    }
    assert!(backlog.next(MOST).is_none());
}

#[test]
fn too_many_events_while_the_plugin_is_away_are_dropped() {
    let mut backlog = backlog();
    backlog.attach(&[host_event::CONNECT], BOUND);
    backlog.detach();
    let pushed = (0..=BOUND).map(|number| {
        let kind = HostEventKind::Connect(connection(number));
        backlog.push_while_away(&Arc::new(HostEvent::new(kind, Recipients::All))).unwrap().len()
    });
    assert_eq!(pushed.sum::<usize>(), BOUND + 1);
    assert_eq!(backlog.len(), 0);
}

#[test]
fn one_resync_replaces_the_events_of_a_plugin_that_is_away_and_listens_for_it() {
    let one = connection(1);
    let mut backlog = backlog();
    let listens = [host_event::CONNECT, host_event::DISCONNECT, host_event::RESYNC];
    backlog.attach(&listens, BOUND);
    backlog.push(connect(&one), BOUND, true);
    assert_eq!(backlog.detach().len(), 1);
    let gone = HostEvent::new(HostEventKind::Disconnect(one), Recipients::All);
    assert!(backlog.push_while_away(&Arc::new(gone)).is_none() && backlog.len() == 0);
    assert!(backlog.next(MOST).is_none());
    backlog.attach(&listens, BOUND);
    assert!(is_resync(backlog.next(MOST).as_ref()));
}

#[test]
fn a_version_that_begins_to_listen_for_connections_needs_a_resync_if_it_listens_for_it() {
    use host_event::{CONNECT, DISCONNECT, RESYNC, START};
    let steps: [(&[&'static str], bool); 7] = [
        (&[START], false),
        (&[START, CONNECT], false),
        (&[CONNECT, RESYNC], true),
        (&[CONNECT, RESYNC], false),
        (&[RESYNC], false),
        (&[RESYNC, CONNECT, DISCONNECT], true),
        (&[RESYNC, DISCONNECT, START], false),
    ];
    let mut backlog = backlog();
    for (step, (listens, begins)) in steps.into_iter().enumerate() {
        assert_eq!(backlog.attach(listens, BOUND).begins_to_listen, begins, "step {step}");
    }
}

#[test]
fn what_waits_for_a_connection_does_not_keep_others_waiting() {
    let mut backlog = backlog();
    let (slow, quick) = (connection(1), connection(2));
    for pending in [connect(&slow), disconnect(&slow), connect(&quick)] {
        assert!(backlog.push(pending, BOUND, true).is_empty());
    }
    let first = backlog.next(MOST).unwrap();
    let second = backlog.next(MOST).unwrap();
    assert!(matches!((&first.event.kind, &second.event.kind),
        (HostEventKind::Connect(first), HostEventKind::Connect(second))
            if Arc::ptr_eq(first, &slow) && Arc::ptr_eq(second, &quick)));
    assert!(backlog.next(MOST).is_none(), "the end of a connection waits for its begin");
    backlog.done(&first);
    assert!(matches!(backlog.next(MOST).unwrap().event.kind, HostEventKind::Disconnect(_)));
}

#[test]
fn start_is_delivered_first_and_alone() {
    let mut backlog = backlog();
    backlog.push(pending(HostEventKind::Start), BOUND, true);
    for number in 0..=BOUND {
        backlog.push(connect(&connection(number)), BOUND, true);
    }
    let start = backlog.next(MOST).unwrap();
    assert!(matches!(start.event.kind, HostEventKind::Start));
    assert!(backlog.next(MOST).is_none());
    backlog.done(&start);
    assert!(is_resync(backlog.next(MOST).as_ref()));
}

#[test]
fn a_resync_is_for_the_plugin_of_the_backlog_only() {
    let mut backlog = backlog();
    backlog.push(pending(HostEventKind::Resync), BOUND, true);
    let resync = backlog.next(MOST).unwrap();
    assert!(is_resync(Some(&resync)));
    assert!(matches!(&resync.event.recipients, Recipients::Plugin(name) if **name == *"plugin"));
}

#[test]
fn a_resync_that_fails_is_tried_again_after_growing_waits_until_it_succeeds() {
    let mut backlog = backlog();
    backlog.resync();
    let mut waits = Vec::new();
    for _ in 0..40 {
        assert!(is_resync(backlog.next(MOST).as_ref()));
        waits.push(backlog.resync_failed().unwrap().as_secs());
        assert!(
            backlog.push(connect(&connection(1)), BOUND, true).is_empty(),
            "it is delivered meanwhile"
        );
        let connected = backlog.next(MOST).unwrap();
        assert!(matches!(connected.event.kind, HostEventKind::Connect(_)));
        backlog.done(&connected);
        backlog.push(connect(&connection(2)), BOUND, true);
        assert_eq!(backlog.retry_resync().len(), 1, "the `$resync` covers it");
    }
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(waits[39], 60);
    // A failure while another retry is pending has no delay of its own.
    assert!(backlog.next(MOST).is_some() && backlog.resync_failed().is_some());
    backlog.resync();
    assert!(backlog.next(MOST).is_some() && backlog.resync_failed().is_none());
    // A `$resync` that was parked because the plugin does not serve is not a success.
    backlog.resync();
    let resync = backlog.next(MOST).unwrap();
    backlog.park(resync);
    backlog.resume();
    let resync = backlog.next(MOST).unwrap();
    backlog.done(&resync);
    assert!(backlog.retry_resync().is_empty() && backlog.next(MOST).is_none(), "it has succeeded");
    backlog.resync();
    assert!(backlog.next(MOST).is_some());
    assert_eq!(backlog.resync_failed(), Some(RESYNC_RETRY.0));
}

#[test]
fn occupied_rooms_are_told_again_only_after_a_resync_that_succeeds() {
    let mut backlog = backlog();
    backlog.rooms().follow_all(&["r"]);
    let told = backlog.next(MOST).unwrap();
    assert!(told.event.room().is_some_and(|change| change.is_occupied));
    backlog.done(&told);
    backlog.resync();
    assert!(is_resync(backlog.next(MOST).as_ref()));
    assert!(backlog.resync_failed().is_some() && backlog.next(MOST).is_none(), "it knows `r`");
    backlog.retry_resync();
    let resync = backlog.next(MOST).unwrap();
    backlog.done(&resync);
    assert!(backlog.next(MOST).is_some_and(|again| again.event.room().is_some()));
}

proptest! {
    /// In the end, a plugin always knows which connections are open: it was told in order, or
    /// it was told to read them again.
    #[test]
    fn a_plugin_knows_in_the_end_who_is_connected(steps in proptest::collection::vec((0_u8..10, 0_usize..8), 1..300)) {
        let mut backlog = backlog();
        let mut told = Told::default();
        let mut live: Vec<Arc<Connection>> = Vec::new();
        let mut running: Vec<(Pending, Vec<String>)> = Vec::new();
        let mut made = 0;
        let read = |live: &[Arc<Connection>]| live.iter().map(|connection| connection.public_id.clone()).collect::<Vec<_>>();
        for (step, choice) in steps {
            match step {
                0..3 => {
                    made += 1;
                    let new = connection(made);
                    live.push(Arc::clone(&new));
                    backlog.push(connect(&new), BOUND, true);
                }
                3..5 if !live.is_empty() => {
                    let gone = live.remove(choice % live.len());
                    backlog.push(disconnect(&gone), BOUND, true);
                }
                5..7 => running.extend(backlog.next(MOST).map(|pending| (pending, read(&live)))),
                7 if !running.is_empty() => {
                    let (pending, _) = running.remove(choice % running.len());
                    backlog.park(pending);
                }
                8 => backlog.resume(),
                _ if !running.is_empty() => {
                    let (pending, seen) = running.remove(choice % running.len());
                    told.handle(&pending.event, seen);
                    backlog.done(&pending);
                }
                _ => {}
            }
            prop_assert!(backlog.len() <= BOUND + MOST && running.len() <= MOST);
        }
        backlog.resume();
        loop {
            while let Some(pending) = backlog.next(MOST) {
                let seen = read(&live);
                running.push((pending, seen));
            }
            let Some((pending, seen)) = running.pop() else { break };
            told.handle(&pending.event, seen);
            backlog.done(&pending);
        }
        let mut known: Vec<_> = told.connected.iter().filter(|(_, is_connected)| **is_connected).map(|(id, _)| id.clone()).collect();
        let mut expected = read(&live);
        known.sort();
        expected.sort();
        prop_assert_eq!(known, expected);
    }
}

fn room_of(pending: Option<&Pending>) -> Option<&str> {
    pending.and_then(|pending| pending.event.room()).map(|change| &*change.key.room)
}

#[test]
fn changes_of_rooms_take_turns_with_events_of_connections_and_wait_for_what_is_delivered_alone() {
    let mut backlog = backlog();
    backlog.attach(&[host_event::CONNECT, host_event::RESYNC], BOUND);
    let connections: Vec<_> = (0..4).map(connection).collect();
    backlog.rooms().follow_all(&["one", "two"]);
    backlog.push(pending(HostEventKind::Start), BOUND, true);
    for connection in &connections {
        backlog.push(connect(connection), BOUND, true);
    }
    assert_eq!(backlog.len(), 1 + connections.len() + 2);
    let start = backlog.next(MOST).unwrap();
    assert_eq!(start.event.kind.name(), host_event::START);
    assert!(backlog.next(MOST).is_none());
    backlog.done(&start);
    let running: Vec<_> = std::iter::from_fn(|| backlog.next(MOST)).collect();
    let rooms = running.iter().filter(|pending| room_of(Some(pending)).is_some()).count();
    assert_eq!((running.len(), rooms), (MOST, 1));
    // `$resync` waits for all of them, and starts the rooms over.
    backlog.push(pending(HostEventKind::Resync), BOUND, true);
    for running in &running {
        assert!(backlog.next(MOST).is_none());
        backlog.done(running);
    }
    let resync = backlog.next(MOST);
    assert!(is_resync(resync.as_ref()) && backlog.next(MOST).is_none());
    assert!(!backlog.add_worker(MOST));
    backlog.done(&resync.unwrap());
    assert!(backlog.add_worker(MOST), "a room is work");
    let mut told: Vec<_> = std::iter::from_fn(|| backlog.next(MOST)).collect();
    told.sort_by_key(|pending| room_of(Some(pending)).map(str::to_owned));
    assert_eq!([room_of(told.first()), room_of(told.last())], [Some("one"), Some("two")]);
}

#[test]
fn a_change_of_a_room_that_was_not_delivered_is_delivered_later() {
    let mut backlog = backlog();
    backlog.attach(&[host_event::ROOM_OCCUPIED], BOUND);
    backlog.rooms().follow_all(&["one"]);
    for _ in 0..2 {
        let pending = backlog.next(MOST).unwrap();
        assert_eq!(room_of(Some(&pending)), Some("one"));
        assert_eq!(backlog.park(pending).1.len(), 0);
        assert!(backlog.next(MOST).is_none() && !backlog.add_worker(MOST));
        backlog.resume();
    }
    let pending = backlog.next(MOST).unwrap();
    backlog.done(&pending);
    assert!(backlog.next(MOST).is_none() && backlog.len() == 0);
}
