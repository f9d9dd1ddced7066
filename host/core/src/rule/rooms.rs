//! The rules of all rooms that the loaded plugins declare: who may join which room, and whether the
//! declarations of two plugins conflict.

use std::collections::BTreeMap;

use crate::identity::Identity;
use crate::rejection::Refusal;

use super::{Access, OperatorRules, RoomPattern, Subject, is_room_name};

/// A room, or a template for rooms, that a plugin declares.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredRoom {
    /// The name or the template.
    pub pattern: RoomPattern,
    /// Who may join.
    pub access: Access,
}

/// A declared room, or a template for rooms, with its access rule and the plugin that owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomRule {
    /// The name or the template.
    pub pattern: RoomPattern,
    /// Who may join.
    pub access: Access,
    /// The plugin that owns it: the one that was added first of those that declare it, or the one
    /// that has owned it before ([`RoomRules::after`]). The others are not recorded.
    pub owner: String,
}

impl RoomRule {
    /// The rule of a room that the plugin `owner` declares.
    pub fn new(room: &DeclaredRoom, owner: &str) -> Self {
        let DeclaredRoom { pattern, access } = room.clone();
        Self { pattern, access, owner: owner.to_owned() }
    }

    /// Whether the handlers of `plugin` choose the members: the rule is `handler`, and the room is
    /// the plugin's.
    fn is_chosen_by(&self, plugin: &str) -> bool {
        self.access == Access::Handler && self.owner == plugin
    }
}

/// The rules of the rooms that all loaded plugins declare.
#[derive(Debug, Clone, Default)]
pub struct RoomRules {
    /// As the plugins declare them. They decide whether two plugins conflict.
    declared: Vec<RoomRule>,
    /// As they are in force: with the rules of the operator.
    in_force: Vec<RoomRule>,
    /// The rules that the operator only tries.
    tried: Vec<RoomRule>,
    /// The owners in the rules before, by the text of the pattern.
    owners_before: BTreeMap<String, String>,
}

/// Another plugin declares an overlapping room with another pattern or access rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "room `{room}` is taken by plugin `{by}`, as `{as_room}`; a second declaration must be \
     identical, and a room with the rule `handler` has one plugin"
)]
pub struct RoomTaken {
    /// The room in the new declaration.
    pub room: String,
    /// The room in the earlier declaration.
    pub as_room: String,
    /// The plugin that declared it earlier.
    pub by: String,
}

/// Why a client may not join a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJoined {
    /// No room can have this name.
    Invalid,
    /// No loaded plugin declares the room.
    Unknown,
    /// The room's rule does not allow it.
    Forbidden,
}

impl NotJoined {
    /// The refusal of a call that joins `room`.
    pub fn refusal(self, room: &str) -> Refusal {
        match self {
            Self::Invalid => Refusal::new("unknown_room", "this is not a valid room name"),
            Self::Unknown => {
                Refusal::new("unknown_room", format!("no loaded plugin declares the room `{room}`"))
            }
            Self::Forbidden => {
                Refusal::new("forbidden", format!("the room `{room}` is not open to this client"))
            }
        }
    }
}

impl RoomRules {
    /// Checks whether `plugin` may declare `rooms` beside those of the other plugins: overlapping
    /// rooms must have the same pattern and access rule. A room whose members a handler chooses has
    /// one plugin.
    ///
    /// # Errors
    /// Returns the first conflict.
    pub fn check(&self, plugin: &str, rooms: &[DeclaredRoom]) -> Result<(), RoomTaken> {
        for DeclaredRoom { pattern, access } in rooms {
            // These rules may already contain rooms of `plugin` itself: they are no conflict.
            for rule in self.declared.iter().filter(|rule| rule.owner != plugin) {
                let identical = rule.pattern == *pattern
                    && rule.access == *access
                    && *access != Access::Handler;
                if rule.pattern.overlaps(pattern) && !identical {
                    return Err(RoomTaken {
                        room: pattern.to_string(),
                        as_room: rule.pattern.to_string(),
                        by: rule.owner.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns rules without rooms, in which a room keeps the owner that it has in `previous`, as
    /// long as that plugin declares it.
    pub fn after(previous: &Self) -> Self {
        let owners = previous.declared.iter();
        let owners = owners.map(|rule| (rule.pattern.to_string(), rule.owner.clone()));
        Self { owners_before: owners.collect(), ..Self::default() }
    }

    /// Adds the rooms of `plugin`. If several plugins declare the same room, its owner is the one
    /// that has owned it before, or else the one that was added first.
    pub fn add(&mut self, plugin: &str, rooms: &[DeclaredRoom]) {
        self.add_under(&OperatorRules::default(), plugin, rooms);
    }

    /// Like [`RoomRules::add`], with the rules of the operator in place of the declared ones.
    pub fn add_under(&mut self, operator: &OperatorRules, plugin: &str, rooms: &[DeclaredRoom]) {
        for room in rooms {
            if self.declared.iter().any(|rule| rule.pattern == room.pattern) {
                let before = self.owners_before.get(room.pattern.as_str());
                if before.is_some_and(|owner| owner == plugin) {
                    self.set_owner(&room.pattern, plugin);
                }
                continue;
            }
            let declared = RoomRule::new(room, plugin);
            let subject = Subject::Room(room.pattern.to_string());
            let with = |access: &Access| RoomRule { access: access.clone(), ..declared.clone() };
            self.in_force.push(operator.decides(&subject).map_or_else(|| declared.clone(), with));
            self.tried.extend(operator.tries(&subject).map(with));
            self.declared.push(declared);
        }
        // A literal room precedes a template of the same plugin that matches it too.
        for rules in [&mut self.declared, &mut self.in_force, &mut self.tried] {
            rules.sort_by_key(|rule| rule.pattern.is_template());
        }
    }

    fn set_owner(&mut self, pattern: &RoomPattern, plugin: &str) {
        for rules in [&mut self.declared, &mut self.in_force, &mut self.tried] {
            for rule in rules.iter_mut().filter(|rule| rule.pattern == *pattern) {
                plugin.clone_into(&mut rule.owner);
            }
        }
    }

    /// Checks whether a handler of `plugin` may let `identity` join `room`. Users may always join
    /// their own room (`user_` and the name), unless a plugin declares that room; then only its
    /// rule decides. Otherwise a user named `list` could join the room `user_list` of a plugin. An
    /// empty `plugin` stands for the host itself.
    ///
    /// # Errors
    /// Returns why it may not join.
    pub fn may_join(&self, room: &str, identity: &Identity, plugin: &str) -> Result<(), NotJoined> {
        if !is_room_name(room) {
            return Err(NotJoined::Invalid);
        }
        match self.find(room) {
            None if identity.owns_room(room) => Ok(()),
            None => Err(NotJoined::Unknown),
            Some((rule, _)) if rule.is_chosen_by(plugin) => Ok(()),
            Some((rule, variable)) if rule.access.allows(identity, variable) => Ok(()),
            Some(_) => Err(NotJoined::Forbidden),
        }
    }

    /// Whether a member of `room` may stay in it. `before` are the rules under which its membership
    /// was last checked. A member that a plugin's handlers let in stays while the room has the rule
    /// `handler` and belongs to that plugin. With `before == self`, every member of such a room
    /// counts as let in: do not use it for a join that was not checked yet.
    pub fn may_stay(&self, room: &str, identity: &Identity, before: &Self) -> bool {
        let is_chosen = |(rule, _): (&RoomRule, _)| {
            before.find(room).is_some_and(|(before, _)| before.is_chosen_by(&rule.owner))
                && rule.is_chosen_by(&rule.owner)
        };
        // `""`: no handler asks.
        self.find(room).is_some_and(is_chosen) || self.may_join(room, identity, "").is_ok()
    }

    /// The rule of a room, and the text that the variable of its pattern matched.
    fn find<'room>(&self, room: &'room str) -> Option<(&RoomRule, Option<&'room str>)> {
        self.in_force
            .iter()
            .find_map(|rule| rule.pattern.matches(room).map(|variable| (rule, variable)))
    }

    /// The rules in force, literal rooms first.
    pub fn as_slice(&self) -> &[RoomRule] {
        &self.in_force
    }

    /// Returns the rule of `room` that the operator only tries, if it would not let a handler of
    /// `plugin` join `identity`.
    pub fn tried_refuses(
        &self,
        room: &str,
        identity: &Identity,
        plugin: &str,
    ) -> Option<&RoomRule> {
        let tried = |rule: &&RoomRule| rule.pattern.matches(room).is_some();
        // The rule in force decides which pattern the room belongs to.
        let (in_force, variable) = self.find(room)?;
        let tried =
            self.tried.iter().filter(tried).find(|rule| rule.pattern == in_force.pattern)?;
        let allows = tried.is_chosen_by(plugin) || tried.access.allows(identity, variable);
        (!allows).then_some(tried)
    }

    /// Returns which rooms belong to `plugin`.
    pub fn owned_by(&self, plugin: &str) -> OwnedRooms {
        let rules = self.in_force.iter();
        let mut patterns: Vec<_> =
            rules.map(|rule| (rule.pattern.clone(), rule.owner == plugin)).collect();
        let last = patterns.iter().rposition(|(_, is_owned)| *is_owned);
        patterns.truncate(last.map_or(0, |last| last + 1));
        OwnedRooms(patterns)
    }

    /// Whether the room belongs to `plugin`.
    pub fn owns(&self, plugin: &str, room: &str) -> bool {
        self.find(room).is_some_and(|(rule, _)| rule.owner == plugin)
    }
}

/// The rooms that belong to one plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedRooms(
    /// Each pattern up to the last one of the plugin, and whether it is the plugin's. The first
    /// pattern that matches a room decides.
    Vec<(RoomPattern, bool)>,
);

impl OwnedRooms {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the room belongs to the plugin.
    pub fn contains(&self, room: &str) -> bool {
        let mut matching = self.0.iter().filter(|(pattern, _)| pattern.matches(room).is_some());
        matching.next().is_some_and(|(_, is_owned)| *is_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::super::OperatorRule;
    use super::*;

    fn rooms(declared: &[(&str, &str)]) -> Vec<DeclaredRoom> {
        let room = |(pattern, access): &(&str, &str)| DeclaredRoom {
            pattern: pattern.parse().unwrap(),
            access: access.parse().unwrap(),
        };
        declared.iter().map(room).collect()
    }

    #[test]
    fn a_room_has_one_pattern_and_one_rule_for_all_plugins() {
        let mut rules = RoomRules::default();
        rules.add("chat", &rooms(&[("lobby", "anyone"), ("user_{user}", "owner")]));
        let taken = |declared: &[(&str, &str)]| {
            rules.check("other", &rooms(declared)).map_err(|taken| taken.as_room)
        };
        assert_eq!(
            taken(&[("lobby", "anyone"), ("user_{user}", "owner"), ("x", "anyone")]),
            Ok(())
        );
        assert_eq!(taken(&[("lobby", "authenticated")]), Err("lobby".to_owned()));
        assert_eq!(taken(&[("user_{id}", "owner")]), Err("user_{user}".to_owned()));
        assert_eq!(taken(&[("user_7", "anyone")]), Err("user_{user}".to_owned()));
        assert_eq!(rules.check("chat", &rooms(&[("lobby", "authenticated")])), Ok(()));
    }

    #[test]
    fn only_handlers_of_its_plugin_let_clients_into_a_room_with_the_rule_handler() {
        let rules = |owner: &str, access: &str| {
            let mut rules = RoomRules::default();
            rules.add(owner, &rooms(&[("order_{id}", access)]));
            rules
        };
        let (by_handler, open) = (rules("orders", "handler"), rules("orders", "anyone"));
        let somebody = Identity { user: Some("7".to_owned()), ..Identity::default() };
        let may_join = |plugin| by_handler.may_join("order_1", &somebody, plugin);
        assert_eq!(may_join("orders"), Ok(()));
        assert_eq!(may_join("subscription"), Err(NotJoined::Forbidden));
        // Not even with an identical declaration, which would make two plugins choose.
        let again = rooms(&[("order_{id}", "handler")]);
        assert!(by_handler.check("others", &again).is_err());
        assert_eq!(by_handler.check("orders", &again), Ok(()));

        let may_stay =
            |now: &RoomRules, before: &RoomRules| now.may_stay("order_1", &somebody, before);
        assert!(may_stay(&by_handler, &by_handler), "its plugin let it in");
        assert!(!may_stay(&by_handler, &open), "no handler has chosen it");
        assert!(!may_stay(&by_handler, &rules("others", "handler")), "another plugin chose it");
        assert!(!may_stay(&RoomRules::default(), &by_handler), "the room is gone");
        assert!(may_stay(&open, &by_handler));
        assert!(!may_stay(&rules("orders", "role:admin"), &by_handler));
    }

    #[test]
    fn users_may_join_their_own_room_unless_a_plugin_means_it_for_others() {
        let mut rules = RoomRules::default();
        rules.add("admins", &rooms(&[("user_list", "role:admin"), ("user_vip_{x}", "handler")]));
        let user = |name: &str| Identity { user: Some(name.to_owned()), ..Identity::default() };
        let may_join = |room, name| rules.may_join(room, &user(name), "").is_ok();
        assert!(may_join("user_7", "7") && !may_join("user_7", "8"));
        assert!(!may_join("user_list", "list") && !may_join("user_vip_1", "vip_1"));
        rules.add("subscription", &rooms(&[("user_{user}", "owner")]));
        let may_join = |room, name| rules.may_join(room, &user(name), "").is_ok();
        assert!(may_join("user_7", "7") && !may_join("user_7", "8"));
        assert!(!may_join("user_list", "list"));
    }

    #[test]
    fn a_room_keeps_its_owner_while_the_owner_declares_it() {
        let lobby = || rooms(&[("lobby", "anyone")]);
        let mut before = RoomRules::default();
        before.add("chat", &lobby());
        before.add("alarm", &lobby());
        assert!(before.owns("chat", "lobby") && !before.owns("alarm", "lobby"));
        // A file that sorts earlier is added earlier.
        let mut after = RoomRules::after(&before);
        after.add("alarm", &lobby());
        after.add("chat", &lobby());
        assert!(after.owns("chat", "lobby"));
        let mut without = RoomRules::after(&after);
        without.add("alarm", &lobby());
        assert!(without.owns("alarm", "lobby"));
    }

    #[test]
    fn a_rule_of_the_operator_replaces_the_declared_one_and_conflicts_stay_those_of_declarations() {
        let rule = |room: &str, access: &str, observe| OperatorRule {
            subject: Subject::Room(room.to_owned()),
            access: access.parse().unwrap(),
            observe,
        };
        let operator = OperatorRules::new(vec![
            rule("lobby", "role:admin", false),
            rule("staff", "anyone", false),
            rule("hall_{n}", "authenticated", true),
        ]);
        let mut rules = RoomRules::default();
        let declared =
            rooms(&[("lobby", "anyone"), ("staff", "role:staff"), ("hall_{n}", "anyone")]);
        rules.add_under(&operator.unwrap(), "chat", &declared);
        let nobody = Identity::default();
        let may_join = |room| rules.may_join(room, &nobody, "chat").is_ok();
        assert!(!may_join("lobby") && may_join("staff") && may_join("hall_1"));
        assert_eq!(rules.check("other", &rooms(&[("lobby", "anyone")])), Ok(()));
        assert!(rules.check("other", &rooms(&[("lobby", "role:admin")])).is_err());

        let tried = |room| rules.tried_refuses(room, &nobody, "chat").map(|rule| &rule.access);
        assert_eq!(tried("hall_1"), Some(&Access::Authenticated));
        assert_eq!((tried("lobby"), tried("staff"), tried("other")), (None, None, None));
        let user = Identity { user: Some("7".to_owned()), ..Identity::default() };
        assert_eq!(rules.tried_refuses("hall_1", &user, "chat"), None);
        assert!(rules.owns("chat", "hall_1") && !rules.owns("other", "hall_1"));
    }

    #[test]
    fn a_literal_room_precedes_a_template_of_the_same_plugin() {
        let mut rules = RoomRules::default();
        rules.add("chat", &rooms(&[("room_{x}", "anyone"), ("room_1", "authenticated")]));
        let nobody = Identity::default();
        assert_eq!(rules.may_join("room_1", &nobody, "chat"), Err(NotJoined::Forbidden));
        assert_eq!(rules.may_join("room_2", &nobody, "chat"), Ok(()));
        assert_eq!(rules.may_join("lobby", &nobody, "chat"), Err(NotJoined::Unknown));
        assert_eq!(rules.may_join("a\nb", &nobody, "chat"), Err(NotJoined::Invalid));
    }

    #[test]
    fn the_rooms_of_a_plugin_are_those_that_it_owns() {
        let mut rules = RoomRules::default();
        let user = ("user_{user}", "owner");
        rules.add("other", &rooms(&[user, ("lobby", "anyone"), ("late_{n}", "anyone")]));
        rules.add("chat", &rooms(&[user, ("chat_{n}", "anyone"), ("list", "anyone")]));
        let owned = rules.owned_by("chat");
        for room in ["user_7", "lobby", "late_1", "chat_1", "list", "chat_", "none"] {
            assert_eq!(owned.contains(room), rules.owns("chat", room), "{room}");
        }
        assert!(owned.contains("chat_1") && !owned.contains("user_7"));
        assert!(rules.owned_by("nobody").is_empty() && !owned.is_empty());
    }
}
