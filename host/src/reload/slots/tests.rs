//! Tests of slots: single guarantees, and any sequence of events compared with a simple model.

use std::path::Path;

use super::*;
use proptest::prelude::*;

/// The time at which every version in these tests begins to serve.
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn error(digest: &str) -> LastError {
    LastError {
        digest: Some(digest.to_owned()),
        reason: "bad".to_owned(),
        at: SystemTime::UNIX_EPOCH,
        is_retried: false,
    }
}

fn file() -> PathBuf {
    PathBuf::from("a.wasm")
}

/// Returns slots in which these versions of `a` have served, one after the other.
fn after(versions: &[&str]) -> Slots {
    let mut slots = Slots::default();
    for version in versions {
        slots.record_file(&file(), version, "a").unwrap();
        assert_eq!(slots.wanted("a").first().map(String::as_str), Some(*version));
        slots.record_serving("a", version, NOW);
    }
    slots
}

#[test]
fn a_file_that_cannot_be_loaded_changes_only_the_shown_error() {
    let mut slots = after(&["1"]);
    slots.record_failed_file(&file(), error("2"), true);
    assert_eq!(slots.wanted("a"), ["1"]);
    assert_eq!(slots.get("a").and_then(|slot| slot.last_error.clone()), Some(error("2")));
    slots.record_file(&file(), "3", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["3", "1"]);
    slots.record_serving("a", "3", NOW);
    assert_eq!(slots.get("a").and_then(|slot| slot.last_error.clone()), None);
}

#[test]
fn a_rollback_holds_until_the_file_changes() {
    let mut slots = after(&["1", "2"]);
    assert_eq!(slots.roll_back("a", None), Ok("1".to_owned()));
    slots.record_serving("a", "1", NOW);
    // The next scan finds the file unchanged.
    slots.record_file(&file(), "2", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["1", "2"]);
    slots.record_file(&file(), "3", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["3", "1"]);
}

#[test]
fn rolling_back_twice_alternates_and_naming_the_files_version_follows_it_again() {
    let mut slots = after(&["11", "22"]);
    assert_eq!(slots.roll_back("a", None), Ok("11".to_owned()));
    slots.record_serving("a", "11", NOW);
    assert_eq!(slots.roll_back("a", Some("2")), Ok("22".to_owned()));
    assert_eq!(slots.get("a").map(|slot| slot.intent.clone()), Some(Intent::Follow));
    assert!(matches!(slots.roll_back("a", Some("9")), Err(OperatorError::NotKept { .. })));
    assert!(matches!(slots.roll_back("a", Some("")), Err(OperatorError::NotKept { .. })));
    assert_eq!(slots.roll_back("b", None), Err(OperatorError::Unknown("b".to_owned())));
    assert_eq!(after(&["1"]).roll_back("a", None), Err(OperatorError::NoEarlier("a".to_owned())));
}

#[test]
fn a_new_version_whose_breaker_opens_is_rolled_back_and_not_retried() {
    let mut slots = after(&["1", "2"]);
    assert_eq!(
        slots.on_breaker_opened("a", None, NOW + TRIAL),
        None,
        "after its first minute it stays"
    );
    slots.record_serving("a", "2", NOW + TRIAL);
    assert_eq!(
        slots.on_breaker_opened("a", None, NOW + TRIAL),
        None,
        "a restart makes it no newer"
    );
    assert_eq!(slots.on_breaker_opened("a", None, NOW), Some("1".to_owned()));
    assert_eq!(slots.wanted("a").first().map(String::as_str), Some("1"));
    slots.record_serving("a", "1", NOW);
    slots.record_file(&file(), "2", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["1"]);
    assert_eq!(slots.on_breaker_opened("a", None, NOW), None, "there is nothing before it");
}

#[test]
fn a_version_that_an_operator_chose_is_not_rolled_back() {
    let mut slots = after(&["1", "2"]);
    slots.roll_back("a", None).unwrap();
    slots.record_serving("a", "1", NOW);
    assert_eq!(slots.on_breaker_opened("a", None, NOW), None);
}

#[test]
fn a_breaker_does_not_override_a_rollback_that_is_still_loading() {
    let mut slots = after(&["1", "2", "3"]);
    let before = slots.get("a").cloned();
    slots.roll_back("a", Some("1")).unwrap();
    assert_eq!(slots.on_breaker_opened("a", None, NOW), None);
    assert_eq!(slots.wanted("a"), ["1", "3"]);
    slots.undo_roll_back("a", "1", before.as_ref());
    assert_eq!(slots.get("a").cloned(), before);
}

#[test]
fn an_undone_rollback_leaves_what_a_breaker_has_decided() {
    let mut slots = after(&["1", "2", "3"]);
    assert_eq!(slots.on_breaker_opened("a", None, NOW), Some("2".to_owned()));
    let before = slots.get("a").cloned();
    // To another version than the breaker's, to the same, and to the one in the file.
    for to in ["1", "2", "3"] {
        slots.roll_back("a", Some(to)).unwrap();
        slots.undo_roll_back("a", to, before.as_ref());
        assert_eq!(slots.get("a").cloned(), before, "{to}");
    }
    assert_eq!(slots.wanted("a"), ["2", "3"]);
}

#[test]
fn a_rollback_that_failed_is_undone() {
    let mut slots = after(&["1", "2", "3"]);
    slots.roll_back("a", Some("2")).unwrap();
    slots.record_serving("a", "2", NOW);
    let before = slots.get("a").cloned();
    assert_eq!(slots.roll_back("a", Some("1")), Ok("1".to_owned()));
    slots.undo_roll_back("a", "1", before.as_ref());
    assert_eq!(slots.get("a").cloned(), before);
    // The file has changed meanwhile: its new content is wanted, despite earlier candidates.
    slots.roll_back("a", Some("1")).unwrap();
    slots.record_file(&file(), "4", "a").unwrap();
    slots.undo_roll_back("a", "1", before.as_ref());
    assert_eq!(slots.wanted("a").first().map(String::as_str), Some("4"));
}

#[test]
fn a_name_has_one_file_and_a_file_one_name() {
    let mut slots = after(&["1"]);
    let (file, other) = (file(), PathBuf::from("b.wasm"));
    let holds = |file, name, digest| Claim { file, content: Some((name, digest)) };
    assert_eq!(
        slots.claim(&[holds(&file, "a", "1"), holds(&other, "a", "2")], false, NOW),
        [(other.as_path(), file.clone())]
    );
    assert_eq!(slots.get("a").map(|slot| slot.in_file.as_str()), Some("1"));
    assert_eq!(slots.claim(&[holds(&file, "other", "3")], false, NOW), []);
    assert_eq!(
        (slots.get("a").map(Slot::is_absent), slots.of_file(&file)),
        (Some(true), Some("other"))
    );
    slots.forget("a").unwrap();
    slots.claim(&[], false, NOW);
    assert_eq!(slots, Slots::default(), "what never served leaves nothing behind");
}

#[test]
fn another_file_of_its_name_takes_over_a_slot() {
    let mut slots = after(&["1", "2"]);
    slots.set_disabled("a", true).unwrap();
    let before = slots.get("a").cloned().unwrap();
    let (file, other) = (file(), PathBuf::from("b.wasm"));
    // Renamed: all knowledge and all candidates stay.
    slots.claim(&[Claim { file: &other, content: Some(("a", "2")) }], false, NOW);
    assert_eq!(slots.get("a"), Some(&Slot { file: other.clone(), ..before.clone() }));
    // Gone, while a file that may hold the plugin is not identified yet.
    slots.claim(&[Claim { file: &file, content: None }], true, NOW);
    assert_eq!(slots.get("a"), Some(&Slot { file: other.clone(), ..before.clone() }));
    slots.claim(&[Claim { file: &file, content: None }], false, NOW);
    assert_eq!(slots.get("a").map(Slot::is_absent), Some(true));
}

/// Returns the claim of `file`, which holds this version of `a`.
fn holds<'files>(file: &'files Path, version: &'files str) -> [Claim<'files>; 1] {
    [Claim { file, content: Some(("a", version)) }]
}

#[test]
fn decisions_outlive_the_absence_of_the_file() {
    let mut slots = after(&["1", "2", "3"]);
    slots.roll_back("a", Some("2")).unwrap();
    slots.record_serving("a", "2", NOW);
    slots.set_disabled("a", true).unwrap();
    let before = slots.get("a").cloned().unwrap();
    slots.claim(&[], false, NOW);
    assert_eq!(slots.wanted("a"), [""; 0], "nothing of it serves");
    assert!(matches!(slots.roll_back("a", None), Err(OperatorError::Absent { .. })));
    // A host that starts meanwhile also knows the decisions.
    let saved = serde_json::to_string(&slots).unwrap();
    let mut slots = serde_json::from_str::<Slots>(&saved).unwrap().at_start();
    // A file that is no plugin brings nothing back.
    slots.claim(&[Claim { file: &file(), content: None }], false, NOW);
    slots.record_failed_file(&file(), error("9"), true);
    assert_eq!(slots.wanted("a"), [""; 0]);
    slots.claim(&holds(&file(), "3"), false, NOW + TRIAL);
    slots.record_serving("a", "2", NOW + TRIAL);
    assert_eq!(slots.get("a"), Some(&before), "a version is not newer for having been away");
}

#[test]
fn a_version_that_was_rolled_back_is_not_retried_when_its_file_comes_back() {
    let mut slots = after(&["1", "2"]);
    slots.on_breaker_opened("a", None, NOW).unwrap();
    slots.record_serving("a", "1", NOW);
    slots.claim(&[], false, NOW);
    slots.claim(&holds(&file(), "2"), false, NOW);
    assert_eq!(slots.wanted("a"), ["1"]);
    // The decision does not apply to other content.
    slots.claim(&[], false, NOW);
    slots.claim(&holds(&file(), "3"), false, NOW);
    assert_eq!(slots.wanted("a"), ["3", "1"]);
}

#[test]
fn a_version_that_served_until_its_file_was_removed_loses_only_to_settled_ones() {
    const SETTLED: Duration = Duration::from_secs(10);
    let standing = |slots: &Slots, version, moment| {
        slots.get("a").unwrap().standing(version, moment, NOW, SETTLED)
    };
    let mut slots = after(&["1"]);
    assert_eq!(standing(&slots, "1", Moment::Serving), Standing::Serves);
    assert_eq!(
        standing(&slots, "1", Moment::Start),
        Standing::Serves,
        "as when the host before ended"
    );
    assert_eq!(
        slots.get("a").unwrap().standing("1", Moment::Serving, NOW + SETTLED, SETTLED),
        Standing::Settled
    );
    assert_eq!(standing(&slots, "2", Moment::Running), Standing::Upgrade);
    slots.claim(&[], false, NOW);
    // The generation that is then published serves no version of it.
    slots.record_not_serving("a");
    slots.claim(&holds(&file(), "1"), false, NOW);
    for moment in [Moment::Running, Moment::Start] {
        assert_eq!(standing(&slots, "1", moment), Standing::Returned);
        assert_eq!(standing(&slots, "2", moment), Standing::Upgrade);
    }
    slots.record_serving("a", "1", NOW);
    assert_eq!(standing(&slots, "1", Moment::Start), Standing::Serves);
    slots.record_not_serving("a");
    assert_eq!(standing(&slots, "1", Moment::Running), Standing::New, "it has lost its claims");
    slots.record_serving("a", "1", NOW + TRIAL);
    assert_eq!(slots.get("a").unwrap().serving_since, NOW + TRIAL, "it serves anew");
    let order =
        [Standing::New, Standing::Upgrade, Standing::Serves, Standing::Returned, Standing::Settled];
    assert!(order.is_sorted());
}

#[test]
fn a_plugin_that_cannot_be_loaded_at_a_start_reserves_what_it_served_until_its_file_is_gone() {
    const SETTLED: Duration = Duration::from_secs(10);
    let reservation: Reservation = serde_json::from_str(r#"{"events":["x"]}"#).unwrap();
    let mut slots = after(&["1"]);
    slots.record_reservation("a", reservation.clone());
    let saved = serde_json::to_string(&slots).unwrap();
    let mut slots = serde_json::from_str::<Slots>(&saved).unwrap().at_start();
    slots.claim(&[Claim { file: &file(), content: None }], false, NOW);
    slots.record_failed_file(&file(), error("1"), true);
    let slot = slots.get("a").unwrap();
    assert_eq!((slot.is_absent(), &slot.reservation), (false, &reservation));
    let standing = |now| slot.reserved_standing(now, SETTLED);
    assert_eq!(
        (standing(NOW), standing(NOW + SETTLED)),
        (Some(Standing::Serves), Some(Standing::Settled))
    );
    slots.claim(&[], false, NOW);
    assert_eq!(slots.get("a").map(|slot| slot.reservation.clone()), Some(Reservation::default()));
    let mut slots = after(&["1"]);
    slots.record_not_serving("a");
    assert_eq!(
        slots.get("a").unwrap().reserved_standing(NOW, SETTLED),
        None,
        "it has lost its claims"
    );
}

#[test]
fn an_absent_plugin_is_forgotten_after_its_time_by_an_operator_or_for_another() {
    const AFTER: Duration = Duration::from_secs(60);
    let mut slots = after(&["1"]);
    assert!(matches!(slots.forget("a"), Err(OperatorError::HasFile { .. })));
    assert!(matches!(slots.forget("b"), Err(OperatorError::Unknown(_))));
    slots.claim(&[], false, NOW + AFTER);
    assert_eq!(slots.forget_absent(NOW, AFTER), [""; 0], "also where the clock was set back");
    assert_eq!(slots.clone().forget("a"), Ok(()));
    assert_eq!(slots.forget_absent(NOW + AFTER + AFTER, AFTER), ["a"]);
}

/// Lets plugins with these numbers serve.
fn crowd(slots: &mut Slots, numbers: std::ops::Range<usize>) {
    let crowd: Vec<_> = numbers
        .map(|number| (PathBuf::from(format!("{number}.wasm")), format!("p{number:04}")))
        .collect();
    let claims: Vec<_> =
        crowd.iter().map(|(file, name)| Claim { file, content: Some((name, "1")) }).collect();
    slots.claim(&claims, false, NOW);
    crowd.iter().for_each(|(_, name)| slots.record_serving(name, "1", NOW));
}

#[test]
fn plugins_that_become_absent_together_are_all_remembered_and_decisions_longest() {
    let (mut slots, after) = (Slots::default(), LATER * 100);
    crowd(&mut slots, 0..200);
    slots.set_disabled("p0007", true).unwrap();
    // An unmounted volume, or a start without it, whether or not a single scan finds all files
    // gone.
    slots.claim(&[], false, NOW);
    assert_eq!(slots.forget_absent(NOW, after), [""; 0]);
    crowd(&mut slots, 200..200 + MAX_LATER);
    slots.claim(&[], false, NOW + LATER / 2);
    assert_eq!(slots.forget_absent(NOW + LATER / 2, after), [""; 0]);
    // Other plugins become absent later: the first ones make room, except for those with decisions.
    crowd(&mut slots, 300..300 + MAX_LATER - 1);
    slots.claim(&[], false, NOW + LATER);
    assert_eq!(slots.forget_absent(NOW + LATER, after), [""; 0]);
    crowd(&mut slots, 400..401);
    slots.claim(&[], false, NOW + LATER);
    assert_eq!(slots.forget_absent(NOW + LATER, after).len(), 199);
    assert!(slots.get("p0007").is_some_and(|slot| slot.is_disabled("1")));
}

#[test]
fn absent_plugins_are_bounded_and_those_without_a_decision_are_forgotten_first() {
    let mut slots = Slots::default();
    crowd(&mut slots, 0..MAX_ABSENT + 2);
    slots.set_disabled("p0000", true).unwrap();
    slots.claim(&[], false, NOW);
    assert_eq!(slots.forget_absent(NOW, LATER), ["p0001", "p0002"]);
    assert_eq!(slots.absent().count(), MAX_ABSENT);
}

#[test]
fn two_files_that_swap_their_plugins_leave_both_slots() {
    let (file, other) = (file(), PathBuf::from("b.wasm"));
    let holds = |file, name| Claim { file, content: Some((name, "1")) };
    let mut slots = Slots::default();
    slots.claim(&[holds(&file, "a"), holds(&other, "b")], false, NOW);
    assert_eq!(slots.claim(&[holds(&file, "b"), holds(&other, "a")], false, NOW), []);
    assert_eq!((slots.of_file(&file), slots.of_file(&other)), (Some("b"), Some("a")));
}

#[test]
fn a_disabled_version_stays_disabled_until_another_serves_and_the_file_changes() {
    let mut slots = after(&["1"]);
    slots.set_disabled("a", true).unwrap();
    slots.record_file(&file(), "2", "a").unwrap();
    let disabled =
        |slots: &Slots, version: &str| slots.get("a").is_some_and(|slot| slot.is_disabled(version));
    assert!(
        disabled(&slots, "1") && !disabled(&slots, "2"),
        "the command was about the version that served"
    );
    // The new version serves, fails and is rolled back: the version before it is still disabled.
    slots.record_serving("a", "2", NOW);
    slots.on_breaker_opened("a", None, NOW).unwrap();
    slots.record_serving("a", "1", NOW);
    assert!(disabled(&slots, "1"));
    slots.record_file(&file(), "3", "a").unwrap();
    slots.record_serving("a", "3", NOW);
    slots.record_failed_file(&file(), error("4"), true);
    assert!(!disabled(&slots, "3"), "a broken file disables nothing");
}

#[test]
fn a_start_retries_a_version_that_failed_and_not_one_that_was_rolled_back() {
    let mut slots = after(&["1"]);
    slots.record_file(&file(), "2", "a").unwrap();
    slots.record_failure("a", error("2"), true);
    assert_eq!(slots.wanted("a"), ["1"]);
    assert_eq!(slots.at_start().wanted("a"), ["2", "1"]);
    let mut slots = after(&["1", "2"]);
    slots.on_breaker_opened("a", None, NOW).unwrap();
    let mut slots = slots.at_start();
    assert_eq!(slots.wanted("a").first().map(String::as_str), Some("1"));
    // An operator may override that.
    assert_eq!(slots.roll_back("a", Some("2")), Ok("2".to_owned()));
    assert_eq!(slots.wanted("a").first().map(String::as_str), Some("2"));
}

#[test]
fn an_ambiguous_digest_prefix_is_refused() {
    let mut slots = after(&["11", "12"]);
    assert!(
        matches!(slots.roll_back("a", Some("1")), Err(OperatorError::Ambiguous { found, .. }) if found == ["11", "12"])
    );
}

#[test]
fn the_state_follows_from_what_is_known() {
    let slots = after(&["1"]);
    let slot = slots.get("a");
    let active = Conditions { is_served: true, ..Conditions::default() };
    let mut disabled = slot.cloned().unwrap();
    disabled.intent.disable("1");
    for (slot, conditions, state) in [
        (slot, active, SlotState::Active),
        (slot, Conditions { is_open: true, ..active }, SlotState::Quarantined),
        (Some(&disabled), Conditions { is_open: true, ..active }, SlotState::Disabled),
        (slot, Conditions { is_loading: true, ..active }, SlotState::Active),
        (slot, Conditions { is_loading: true, ..Conditions::default() }, SlotState::Loading),
        (None, Conditions { is_loading: true, ..Conditions::default() }, SlotState::Loading),
        (None, Conditions { is_draining: true, ..Conditions::default() }, SlotState::Draining),
        (slot, Conditions::default(), SlotState::Failed),
        (None, Conditions::default(), SlotState::Failed),
    ] {
        assert_eq!(SlotState::of(slot, conditions), state);
    }
}

/// What can happen to one plugin.
#[derive(Debug, Clone)]
enum Happening {
    /// The file holds this version, which can be loaded.
    Good(u8),
    /// The file holds this version, which is no plugin.
    Broken(u8),
    /// The file is scanned again, unchanged.
    Rescan,
    Removed,
    /// An operator forgets the plugin.
    Forget,
    RollBack,
    RollBackTo(u8),
    Disable,
    Enable,
    /// Its breaker opens when it has served for so many seconds according to the clock; negative if
    /// the clock was set back.
    Tripped(i16),
    /// The host is restarted.
    Restart,
}

use Happening::{Broken, Disable, Enable, Forget, Good, Removed, Rescan, Restart, RollBack};
use Happening::{RollBackTo, Tripped};

/// The plugin `a` in a host that always serves the best version.
#[derive(Default)]
struct Host {
    slots: Slots,
    /// What the file holds, and whether that is a plugin; `None` without a file.
    file: Option<(String, bool)>,
}

impl Host {
    /// Lets something happen. Returns the version to which an operator or a breaker rolled back,
    /// or whether another operator command succeeded.
    fn step(&mut self, happening: &Happening) -> (Option<Digest>, bool) {
        let (slots, mut result) = (&mut self.slots, (None, true));
        match *happening {
            Good(version) => self.file = Some((version.to_string(), true)),
            Broken(version) => self.file = Some((version.to_string(), false)),
            Removed => self.file = None,
            Rescan => {}
            Forget => result.1 = slots.forget("a").is_ok(),
            RollBack => result.0 = slots.roll_back("a", None).ok(),
            RollBackTo(version) => result.0 = slots.roll_back("a", Some(&version.to_string())).ok(),
            Disable => result.1 = slots.set_disabled("a", true).is_ok(),
            Enable => result.1 = slots.set_disabled("a", false).is_ok(),
            Tripped(seconds) => {
                let distance = Duration::from_secs(seconds.unsigned_abs().into());
                let at = if seconds < 0 { NOW - distance } else { NOW + distance };
                result.0 = slots.on_breaker_opened("a", None, at);
            }
            Restart => {
                let saved = serde_json::to_string(&slots).unwrap();
                let loaded: Slots = serde_json::from_str(&saved).unwrap();
                assert_eq!(*slots, loaded);
                *slots = loaded;
            }
        }
        if matches!(happening, Good(_) | Broken(_) | Rescan | Removed) {
            match &self.file {
                Some((version, true)) => {
                    slots.claim(&holds(&file(), version), false, NOW);
                }
                Some((version, false)) => {
                    slots.claim(&[Claim { file: &file(), content: None }], false, NOW);
                    slots.record_failed_file(&file(), error(version), true);
                }
                None => {
                    slots.claim(&[], false, NOW);
                }
            }
        }
        if let Some(best) = slots.wanted("a").first().cloned() {
            slots.record_serving("a", &best, NOW);
        }
        result
    }

    /// Returns the version that serves; `None` if none does.
    fn serving(&self) -> Option<&str> {
        self.slots
            .get("a")
            .filter(|slot| !slot.is_absent())
            .and_then(|slot| slot.serving.as_deref())
    }

    /// Whether the serving version gets events.
    fn gets_events(&self) -> bool {
        self.slots.get("a").is_some_and(|slot| !slot.is_absent() && !slot.is_serving_disabled())
    }
}

#[test]
fn a_rollback_and_a_disable_last_as_long_as_in_these_examples() {
    // What happens; then the version that serves, and whether it gets events.
    let examples: &[(&[Happening], &str, bool)] = &[
        (&[Good(1)], "1", true),
        (&[Good(1), Good(2)], "2", true),
        (&[Good(1), Broken(6)], "1", true),
        // A rollback lasts until the file changes to another plugin.
        (&[Good(1), Good(2), RollBack], "1", true),
        (&[Good(1), Good(2), RollBack, Rescan], "1", true),
        (&[Good(1), Good(2), RollBack, Restart, Rescan], "1", true),
        (&[Good(1), Good(2), RollBack, Broken(6)], "1", true),
        (&[Good(1), Good(2), RollBack, Removed, Good(2)], "1", true),
        (&[Good(1), Good(2), RollBack, Good(3)], "3", true),
        (&[Good(1), Good(2), RollBack, RollBackTo(2)], "2", true),
        (&[Good(1), Good(2), RollBack, RollBack], "2", true),
        // A breaker rolls back only a new version that no operator chose.
        (&[Good(1), Good(2), Tripped(59)], "1", true),
        (&[Good(1), Good(2), Tripped(59), Rescan], "1", true),
        (&[Good(1), Good(2), Tripped(60)], "2", true),
        (&[Good(1), Good(2), Tripped(-1)], "2", true),
        (&[Good(1), Good(2), RollBack, Tripped(59)], "1", true),
        (&[Good(1), Tripped(59)], "1", true),
        // A disable applies to the version that serves, not to one to which the file changes.
        (&[Good(1), Disable], "1", false),
        (&[Good(1), Disable, Rescan], "1", false),
        (&[Good(1), Disable, Restart, Rescan], "1", false),
        (&[Good(1), Disable, Removed, Good(1)], "1", false),
        (&[Good(1), Disable, Broken(6)], "1", false),
        (&[Good(1), Disable, Broken(6), Good(1)], "1", false),
        (&[Good(1), Disable, Broken(6), Good(2)], "2", true),
        (&[Good(1), Disable, Good(2)], "2", true),
        (&[Good(1), Disable, Removed, Good(2)], "2", true),
        (&[Good(1), Disable, Enable], "1", true),
        (&[Good(1), Disable, Removed, Enable, Good(1)], "1", true),
        (&[Good(1), Disable, Removed, Forget, Good(1)], "1", true),
        // It also applies to each version that serves instead of the one in the file, until the
        // file changes after a version that it does not apply to has served.
        (&[Good(1), Disable, Good(2), RollBack], "1", false),
        (&[Good(1), Disable, Good(2), Tripped(0)], "1", false),
        (&[Good(1), Disable, Good(2), RollBack, Good(3)], "3", true),
        (&[Good(1), Disable, Good(2), RollBack, Good(3), RollBack], "1", false),
        (&[Good(1), Disable, Good(2), Good(3), RollBackTo(1)], "1", true),
        (&[Good(1), Disable, Good(2), Good(1)], "1", true),
        (&[Good(1), Disable, Good(2), Broken(6)], "2", true),
        // A rollback and a disable are independent of each other.
        (&[Good(1), Good(2), RollBack, Disable], "1", false),
        (&[Good(1), Good(2), RollBack, Disable, Enable], "1", true),
        (&[Good(1), Good(2), RollBack, Disable, Good(3)], "3", true),
        (&[Good(1), Good(2), Disable, RollBack], "1", false),
        (&[Good(1), Good(2), Disable, RollBack, RollBackTo(2)], "2", false),
        (&[Good(1), Good(2), Disable, RollBack, Enable], "1", true),
    ];
    for (happenings, serving, gets_events) in examples {
        let mut host = Host::default();
        for happening in *happenings {
            host.step(happening);
        }
        let actual = (host.serving(), host.gets_events());
        assert_eq!(actual, (Some(*serving), *gets_events), "{happenings:?}");
    }
}

/// A saved slot as the hosts before this one wrote it. The first ones did not write all members.
#[test]
fn slots_that_earlier_hosts_saved_are_read_and_written_with_the_same_members() {
    let old = r#"{"a":{"file":"a.wasm","in_file":"2","serving":"1","kept":["1","2"],"pinned":"1","last_error":null}}"#;
    let slots: Slots = serde_json::from_str(old).unwrap();
    assert_eq!(slots.get("a").map(|slot| &slot.intent), Some(&Intent::Pinned("1".to_owned())));
    let time = r#"{"secs_since_epoch":0,"nanos_since_epoch":0}"#;
    let intents = [
        ("null", "null", Intent::Follow),
        (r#""1""#, "null", Intent::Pinned("1".to_owned())),
        ("null", r#""2""#, Intent::Disabled { while_file_is: "2".to_owned(), pinned: None }),
        (
            r#""1""#,
            r#""2""#,
            Intent::Disabled { while_file_is: "2".to_owned(), pinned: Some("1".to_owned()) },
        ),
    ];
    for (pinned, disabled, intent) in intents {
        let saved = format!(
            r#"{{"a":{{"file":"a.wasm","in_file":"2","verdict":"good","serving":"1","serving_since":{time},"kept":["1","2"],"versions":{{"1":{{"version":"1.0.0","served_since":{time}}}}},"pinned":{pinned},"disabled":{disabled},"absent_since":{time},"has_come_back":true,"last_error":{{"digest":"3","reason":"bad","at":{time},"is_retried":true}}}}}}"#
        );
        let slots: Slots = serde_json::from_str(&saved).unwrap();
        assert_eq!(slots.get("a").map(|slot| &slot.intent), Some(&intent));
        assert_eq!(serde_json::to_string(&slots).unwrap(), saved);
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0_u8..6).prop_map(Good),
        2 => (6_u8..9).prop_map(Broken),
        2 => Just(Rescan),
        2 => Just(Removed),
        1 => Just(Forget),
        2 => Just(RollBack),
        1 => (0_u8..6).prop_map(RollBackTo),
        1 => Just(Disable),
        1 => Just(Enable),
        2 => (-60_i16..120).prop_map(Tripped),
        1 => Just(Restart),
    ]
}

proptest! {
    #[test]
    fn these_rules_hold_in_any_order_of_events(happenings in proptest::collection::vec(happening(), 1..80)) {
        let mut host = Host::default();
        for happening in happenings {
            let before = (host.serving().map(str::to_owned), host.gets_events());
            let earlier: Vec<Digest> = host.slots.get("a").iter().flat_map(|slot| slot.kept.iter().cloned()).collect();
            let (target, is_done) = host.step(&happening);
            let after = (host.serving().map(str::to_owned), host.gets_events());
            match happening {
                Good(version) if host.slots.get("a").is_some_and(|slot| slot.intent.pinned().is_none() && slot.verdict == Verdict::Good) => {
                    prop_assert_eq!(&after.0, &Some(version.to_string()), "the file is followed");
                }
                Good(_) => prop_assert!(after.0.is_some(), "a file that comes back serves"),
                Broken(_) | Rescan | Restart | Enable | Disable => prop_assert_eq!(&after.0, &before.0, "no other version serves"),
                Forget => prop_assert!(after.0 == before.0 && is_done == (before.0.is_none() && !earlier.is_empty())),
                Removed => prop_assert_eq!(&after.0, &None),
                RollBack | RollBackTo(_) | Tripped(_) => {
                    prop_assert_eq!(&after.0, &target.clone().or(before.0.clone()), "the target \
                                        serves");
                    let is_in_file = target.as_ref() == host.slots.get("a").map(|slot| &slot.in_file);
                    prop_assert!(is_in_file || target.is_none_or(|target| earlier.contains(&target)), "it served before");
                }
            }
            match happening {
                Disable => prop_assert!(!after.1, "a disabled plugin gets no events"),
                Enable => prop_assert_eq!(after.1, after.0.is_some()),
                Rescan | Restart => prop_assert_eq!(after.1, before.1, "nothing has changed"),
                Good(_) | Broken(_) | Removed | Forget | RollBack | RollBackTo(_) | Tripped(_) => {}
            }
            let slot = host.slots.get("a");
            prop_assert!(slot.is_none_or(|slot| slot.kept.len() <= KEPT && slot.versions.len() <= KEPT));
            if let Some(serving) = host.serving() {
                prop_assert_eq!(slot.and_then(|slot| slot.kept.front()).map(String::as_str), Some(serving));
            }
        }
    }
}
