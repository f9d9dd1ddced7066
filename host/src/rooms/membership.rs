//! The connections and their rooms. In each namespace, each room has a contiguous list of
//! connections.

use std::any::Any;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use crate::effect::MemberTotals;
use crate::event::Connection;
use crate::socketio::Link;

use super::member::{Member, MemberList};
use super::occupancy::{Follower, IsFollowed, Occupancy, RoomKey};
use super::room::Room;

/// All connections of a host, by namespace.
#[derive(Default)]
pub(super) struct Membership {
    namespaces: RwLock<HashMap<Arc<str>, Namespace>>,
    /// The number of the next member ([`Member::number`]).
    next_number: AtomicU64,
    /// The readers that follow which rooms are occupied. It has locks of its own. Each change is
    /// noted while `namespaces` is locked, so that the changes come in their order.
    occupancy: Occupancy,
}

#[derive(Default)]
struct Namespace {
    /// By public id. Uses a fast hash: the ids come from the host.
    members: IndexMap<String, MemberEntry, RandomState>,
    rooms: HashMap<String, Room>,
    users: HashMap<String, MemberList>,
}

struct MemberEntry {
    member: Arc<Member>,
    rooms: BTreeSet<String>,
}

impl Membership {
    /// Locks the maps for reading. They are consistent between any two calls, so poisoning is
    /// ignored.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Arc<str>, Namespace>> {
        self.namespaces.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the maps for changes; see [`Membership::read`].
    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Namespace>> {
        self.namespaces.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection, which is in no room at first.
    pub(super) fn add(&self, connection: &Arc<Connection>, link: Link) {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let (connection, has_left) = (Arc::clone(connection), AtomicBool::new(false));
        let member = Arc::new(Member { connection, link, number, has_left });
        let connection = &member.connection;
        let entry = MemberEntry { member: Arc::clone(&member), rooms: BTreeSet::new() };
        let user = connection.identity().user.clone();
        let mut namespaces = self.write();
        let namespace = namespaces.entry(Arc::clone(&connection.namespace)).or_default();
        if let Some(user) = user {
            let list = namespace.users.entry(user).or_default();
            list.insert(number, Arc::clone(&entry.member));
        }
        namespace.members.insert(connection.public_id.clone(), entry);
        // Without its type, which `event` must not know.
        let member: Weak<dyn Any + Send + Sync> = Arc::<Member>::downgrade(&member);
        connection.set_member(member);
    }

    /// Removes a connection from its rooms and from the host. Does nothing if it is unknown.
    pub(super) fn remove(&self, connection: &Connection) {
        let mut namespaces = self.write();
        let Some(namespace) = namespaces.get_mut(&*connection.namespace) else { return };
        let Some(entry) = namespace.members.swap_remove(connection.public_id.as_str()) else {
            return;
        };
        entry.member.has_left.store(true, Ordering::Release);
        let number = entry.member.number;
        for room in &entry.rooms {
            if namespace.leave(room, &entry.member) {
                self.occupancy.note(&connection.namespace, room, false);
            }
        }
        // A new token never changes the user of a connection, so this is the user of `add`.
        if let Some(user) = &connection.identity().user {
            remove_from(&mut namespace.users, user, number);
        }
        // If this is the last copy of the link, its memory is freed without the lock.
        drop(namespaces);
        drop(entry);
    }

    /// Adds a connection to a room, however many rooms it is in. The run of a handler has counted
    /// the rooms of its caller, and the own room of a user has no limit.
    pub(super) fn join(&self, connection: &Connection, room: &str) {
        self.join_within(connection, room, usize::MAX);
    }

    /// Adds a connection to a room, unless it is in `max` or more other rooms. Returns whether it
    /// is in the room now.
    pub(super) fn join_within(&self, connection: &Connection, room: &str, max: usize) -> bool {
        let mut namespaces = self.write();
        let Some(Namespace { members, rooms, .. }) = namespaces.get_mut(&*connection.namespace)
        else {
            return false;
        };
        let Some(entry) = members.get_mut(connection.public_id.as_str()) else { return false };
        if entry.rooms.contains(room) {
            return true;
        }
        if entry.rooms.len() >= max {
            return false;
        }
        entry.rooms.insert(room.to_owned());
        let list = rooms.entry(room.to_owned()).or_default();
        list.add(&entry.member);
        if list.members().len() == 1 {
            self.occupancy.note(&connection.namespace, room, true);
        }
        true
    }

    /// Removes a connection from a room.
    pub(super) fn leave(&self, connection: &Connection, room: &str) {
        let mut namespaces = self.write();
        let Some(namespace) = namespaces.get_mut(&*connection.namespace) else { return };
        let Some(entry) = namespace.members.get_mut(connection.public_id.as_str()) else { return };
        if entry.rooms.remove(room) {
            let member = Arc::clone(&entry.member);
            if namespace.leave(room, &member) {
                self.occupancy.note(&connection.namespace, room, false);
            }
        }
    }

    /// Lets a reader follow the rooms whose names it wants, or none.
    pub(super) fn follow(&self, follower: &Arc<Follower>, is_followed: Option<IsFollowed>) {
        // A lock for reading is enough: nobody joins or leaves while it is held.
        let namespaces = self.read();
        let mut occupied = HashSet::new();
        for (namespace, Namespace { rooms, .. }) in namespaces.iter() {
            let follows = |room: &&String| is_followed.as_ref().is_some_and(|is| is(room));
            occupied.extend(rooms.keys().filter(follows).map(|room| RoomKey {
                namespace: Arc::clone(namespace),
                room: room.as_str().into(),
            }));
        }
        self.occupancy.set(follower, is_followed.is_some());
        follower.follow(is_followed, occupied);
    }

    /// Waits until a reader has a change that is due later, and had none before.
    pub(super) async fn occupancy_changed(&self) {
        self.occupancy.changed().await;
    }

    /// The connections of a user.
    pub(super) fn of_user(&self, namespace: &str, user: &str) -> Vec<Arc<Member>> {
        let namespaces = self.read();
        let list = namespaces.get(namespace).and_then(|namespace| namespace.users.get(user));
        list.map(|list| list.values().cloned().collect()).unwrap_or_default()
    }

    /// The connection with this public id.
    pub(super) fn find(&self, namespace: &str, public_id: &str) -> Option<Arc<Member>> {
        self.read().get(namespace)?.members.get(public_id).map(|entry| Arc::clone(&entry.member))
    }

    /// The member that is this connection. Each event that a handler emits to its caller needs it,
    /// so it is found without the lock; only a connection that has left is looked up with it. An
    /// answer does not need it: it has its own link.
    pub(super) fn of(&self, connection: &Connection) -> Option<Arc<Member>> {
        let member = connection.member::<Member>();
        member
            .filter(|member| !member.has_left.load(Ordering::Acquire))
            .or_else(|| self.find(&connection.namespace, &connection.public_id))
    }

    /// The rooms of a connection, sorted.
    pub(super) fn rooms_of(&self, connection: &Connection) -> BTreeSet<String> {
        let namespaces = self.read();
        let entry = namespaces
            .get(&*connection.namespace)
            .and_then(|namespace| namespace.members.get(connection.public_id.as_str()));
        entry.map(|entry| entry.rooms.clone()).unwrap_or_default()
    }

    /// Returns each connection that is in any of `rooms`, once.
    pub(super) fn in_rooms(&self, namespace: &str, rooms: &[String]) -> Vec<Arc<Member>> {
        let namespaces = self.read();
        let Some(namespace) = namespaces.get(namespace) else { return Vec::new() };
        let mut lists =
            rooms.iter().filter_map(|room| namespace.rooms.get(room)).map(Room::members);
        match (lists.next(), lists.next()) {
            (None, _) => Vec::new(),
            (Some(only), None) => only.values().cloned().collect(),
            (Some(first), Some(second)) => {
                let mut union = first.clone();
                for list in [second].into_iter().chain(lists) {
                    union.extend(list.iter().map(|(number, member)| (*number, Arc::clone(member))));
                }
                union.into_values().collect()
            }
        }
    }

    /// Number of connections in `room`.
    pub(super) fn count(&self, namespace: &str, room: &str) -> usize {
        self.read()
            .get(namespace)
            .and_then(|namespace| namespace.rooms.get(room))
            .map_or(0, |room| room.members().len())
    }

    /// Number of connections and users in `room`, in one namespace or in all.
    pub(super) fn totals(&self, namespace: Option<&str>, room: &str) -> MemberTotals {
        let namespaces = self.read();
        match *rooms_named(&namespaces, namespace, room) {
            [] => MemberTotals::default(),
            [only] => only.totals(),
            // A user may be in several namespaces, and counts once.
            ref rooms => {
                let mut users = HashSet::new();
                rooms.iter().for_each(|room| users.extend(room.users()));
                let connections = rooms.iter().map(|room| room.members().len()).sum();
                MemberTotals { connections, users: users.len() }
            }
        }
    }

    /// Returns the first `limit` connections in `room`, in one namespace or in all, whose public id
    /// is greater than `after`, in the order of their ids.
    pub(super) fn page(
        &self,
        namespace: Option<&str>,
        room: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<Connection>> {
        let namespaces = self.read();
        let rooms = rooms_named(&namespaces, namespace, room);
        let mut page: Vec<_> = rooms.iter().flat_map(|room| room.page(after, limit)).collect();
        if rooms.len() > 1 {
            page.sort_unstable_by(|a, b| a.public_id.cmp(&b.public_id));
            page.truncate(limit);
        }
        page
    }

    /// All connections of a namespace.
    pub(super) fn everyone(&self, namespace: &str) -> Vec<Arc<Member>> {
        let namespaces = self.read();
        let members =
            namespaces.get(namespace).into_iter().flat_map(|namespace| namespace.members.values());
        members.map(|entry| Arc::clone(&entry.member)).collect()
    }

    /// Number of connections in all namespaces.
    pub(super) fn len(&self) -> usize {
        self.read().values().map(|namespace| namespace.members.len()).sum()
    }

    /// The namespaces that have or had connections: at most those of the configuration.
    pub(super) fn namespaces(&self) -> Vec<Arc<str>> {
        self.read().keys().cloned().collect()
    }
}

impl Namespace {
    /// Removes a connection from a room. Removes the room if it is then empty. Returns whether the
    /// room was removed.
    fn leave(&mut self, room: &str, member: &Member) -> bool {
        let is_empty = self.rooms.get_mut(room).is_some_and(|room| room.remove(member));
        if is_empty {
            self.rooms.remove(room);
        }
        is_empty
    }
}

/// Returns the rooms of this name, in one namespace or in all.
fn rooms_named<'namespaces>(
    namespaces: &'namespaces HashMap<Arc<str>, Namespace>,
    namespace: Option<&str>,
    room: &str,
) -> Vec<&'namespaces Room> {
    let is_meant = |name: &str| namespace.is_none_or(|namespace| namespace == name);
    let namespaces = namespaces.iter().filter(|(name, _)| is_meant(name));
    namespaces.filter_map(|(_, namespace)| namespace.rooms.get(room)).collect()
}

/// Removes a connection from the list with this name. Removes the list if it is then empty.
fn remove_from(lists: &mut HashMap<String, MemberList>, name: &str, number: u64) {
    if let Some(list) = lists.get_mut(name) {
        list.swap_remove(&number);
        if list.is_empty() {
            lists.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Identity;

    #[test]
    fn a_connection_is_found_from_its_begin_to_its_end_and_while_another_task_holds_the_lock() {
        let members = Membership::default();
        let identity = Arc::<Identity>::default();
        let connection = Connection::new("sid".into(), "id".into(), "/".into(), identity, None);
        let connection = Arc::new(connection);
        assert!(members.of(&connection).is_none());
        // The host adds a connection once. If it added it again, the connection would still have
        // its first member, which has left: it would be found with the lock.
        for has_entered_before in [false, true] {
            members.add(&connection, Link::of_nobody());
            let locked = (!has_entered_before).then(|| members.write());
            assert!(members.of(&connection).is_some());
            drop(locked);
            members.remove(&connection);
            assert!(members.of(&connection).is_none());
        }
    }
}
