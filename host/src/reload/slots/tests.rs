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
        slots.found(&file(), version, "a").unwrap();
        assert_eq!(slots.wanted("a").first().map(String::as_str), Some(*version));
        slots.active("a", version, NOW);
    }
    slots
}

#[test]
fn a_broken_file_changes_nothing_but_what_is_shown() {
    let mut slots = after(&["1"]);
    slots.broken(&file(), error("2"), true);
    assert_eq!(slots.wanted("a"), ["1"]);
    assert_eq!(slots.get("a").and_then(|slot| slot.last_error.clone()), Some(error("2")));
    slots.found(&file(), "3", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["3", "1"]);
    slots.active("a", "3", NOW);
    assert_eq!(slots.get("a").and_then(|slot| slot.last_error.clone()), None);
}

#[test]
fn a_rollback_holds_until_the_file_changes() {
    let mut slots = after(&["1", "2"]);
    assert_eq!(slots.roll_back("a", None), Ok("1".to_owned()));
    slots.active("a", "1", NOW);
    // The next scan finds the file unchanged.
    slots.found(&file(), "2", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["1", "2"]);
    slots.found(&file(), "3", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["3", "1"]);
}

#[test]
fn rolling_back_twice_alternates_and_naming_the_files_version_follows_it_again() {
    let mut slots = after(&["11", "22"]);
    assert_eq!(slots.roll_back("a", None), Ok("11".to_owned()));
    slots.active("a", "11", NOW);
    assert_eq!(slots.roll_back("a", Some("2")), Ok("22".to_owned()));
    assert_eq!(slots.get("a").and_then(|slot| slot.pinned.clone()), None);
    assert!(matches!(slots.roll_back("a", Some("9")), Err(OperatorError::NotKept { .. })));
    assert!(matches!(slots.roll_back("a", Some("")), Err(OperatorError::NotKept { .. })));
    assert_eq!(slots.roll_back("b", None), Err(OperatorError::Unknown("b".to_owned())));
    assert_eq!(after(&["1"]).roll_back("a", None), Err(OperatorError::NoEarlier("a".to_owned())));
}

#[test]
fn a_new_version_that_trips_its_breaker_goes_back_and_is_not_tried_again() {
    let mut slots = after(&["1", "2"]);
    assert_eq!(
        slots.on_breaker_opened("a", None, NOW + TRIAL),
        None,
        "after its first minute it stays"
    );
    slots.active("a", "2", NOW + TRIAL);
    assert_eq!(
        slots.on_breaker_opened("a", None, NOW + TRIAL),
        None,
        "a restart makes it no newer"
    );
    assert_eq!(slots.on_breaker_opened("a", None, NOW), Some("1".to_owned()));
    assert_eq!(slots.wanted("a").first().map(String::as_str), Some("1"));
    slots.active("a", "1", NOW);
    slots.found(&file(), "2", "a").unwrap();
    assert_eq!(slots.wanted("a"), ["1"]);
    assert_eq!(slots.on_breaker_opened("a", None, NOW), None, "there is nothing before it");
}

#[test]
fn a_version_that_an_operator_chose_is_not_taken_back() {
    let mut slots = after(&["1", "2"]);
    slots.roll_back("a", None).unwrap();
    slots.active("a", "1", NOW);
    assert_eq!(slots.on_breaker_opened("a", None, NOW), None);
}

#[test]
fn a_rollback_that_could_not_be_followed_is_undone() {
    let mut slots = after(&["1", "2", "3"]);
    slots.roll_back("a", Some("2")).unwrap();
    slots.active("a", "2", NOW);
    let before = slots.get("a").cloned();
    assert_eq!(slots.roll_back("a", Some("1")), Ok("1".to_owned()));
    slots.undo_roll_back("a", "1", before.as_ref());
    assert_eq!(slots.get("a").cloned(), before);
    // The file has changed meanwhile: its new content is wanted, despite earlier candidates.
    slots.roll_back("a", Some("1")).unwrap();
    slots.found(&file(), "4", "a").unwrap();
    slots.undo_roll_back("a", "1", before.as_ref());
    assert_eq!(slots.wanted("a").first().map(String::as_str), Some("4"));
}

#[test]
fn a_name_has_one_file_and_a_file_one_name() {
    let mut slots = after(&["1"]);
    let (file, other) = (file(), PathBuf::from("b.wasm"));
    let holds = |file, name, digest| Claim { file, holds: Some((name, digest)) };
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
fn a_slot_goes_on_with_another_file_of_its_name() {
    let mut slots = after(&["1", "2"]);
    slots.set_disabled("a", true).unwrap();
    let before = slots.get("a").cloned().unwrap();
    let (file, other) = (file(), PathBuf::from("b.wasm"));
    // Renamed: all knowledge and all candidates stay.
    slots.claim(&[Claim { file: &other, holds: Some(("a", "2")) }], false, NOW);
    assert_eq!(slots.get("a"), Some(&Slot { file: other.clone(), ..before.clone() }));
    // Gone, while a file that may hold the plugin is not identified yet.
    slots.claim(&[Claim { file: &file, holds: None }], true, NOW);
    assert_eq!(slots.get("a"), Some(&Slot { file: other.clone(), ..before.clone() }));
    slots.claim(&[Claim { file: &file, holds: None }], false, NOW);
    assert_eq!(slots.get("a").map(Slot::is_absent), Some(true));
}

/// Returns the claim of `file`, which holds this version of `a`.
fn holds<'files>(file: &'files Path, version: &'files str) -> [Claim<'files>; 1] {
    [Claim { file, holds: Some(("a", version)) }]
}

#[test]
fn a_file_that_comes_back_finds_what_was_decided() {
    let mut slots = after(&["1", "2", "3"]);
    slots.roll_back("a", Some("2")).unwrap();
    slots.active("a", "2", NOW);
    slots.set_disabled("a", true).unwrap();
    let before = slots.get("a").cloned().unwrap();
    slots.claim(&[], false, NOW);
    assert_eq!(slots.wanted("a"), [""; 0], "nothing of it serves");
    assert!(matches!(slots.roll_back("a", None), Err(OperatorError::Absent { .. })));
    // A host that starts meanwhile also knows the decisions.
    let saved = serde_json::to_string(&slots).unwrap();
    let mut slots = serde_json::from_str::<Slots>(&saved).unwrap().at_start();
    // A file that is no plugin brings nothing back.
    slots.claim(&[Claim { file: &file(), holds: None }], false, NOW);
    slots.broken(&file(), error("9"), true);
    assert_eq!(slots.wanted("a"), [""; 0]);
    slots.claim(&holds(&file(), "3"), false, NOW + TRIAL);
    slots.active("a", "2", NOW + TRIAL);
    assert_eq!(slots.get("a"), Some(&before), "a version is not newer for having been away");
}

#[test]
fn a_version_that_was_taken_back_is_not_tried_again_when_its_file_comes_back() {
    let mut slots = after(&["1", "2"]);
    slots.on_breaker_opened("a", None, NOW).unwrap();
    slots.active("a", "1", NOW);
    slots.claim(&[], false, NOW);
    slots.claim(&holds(&file(), "2"), false, NOW);
    assert_eq!(slots.wanted("a"), ["1"]);
    // The decision does not apply to other content.
    slots.claim(&[], false, NOW);
    slots.claim(&holds(&file(), "3"), false, NOW);
    assert_eq!(slots.wanted("a"), ["3", "1"]);
}

#[test]
fn what_served_until_its_file_went_stands_before_all_but_those_that_are_settled() {
    const SETTLED: Duration = Duration::from_secs(10);
    let standing = |slots: &Slots, version, serves, is_start| {
        slots.get("a").unwrap().standing(version, serves, is_start, NOW, SETTLED)
    };
    let mut slots = after(&["1"]);
    assert_eq!(standing(&slots, "1", true, false), Standing::Serves);
    assert_eq!(
        standing(&slots, "1", false, true),
        Standing::Serves,
        "as when the host before ended"
    );
    assert_eq!(
        slots.get("a").unwrap().standing("1", true, false, NOW + SETTLED, SETTLED),
        Standing::Settled
    );
    assert_eq!(standing(&slots, "2", false, false), Standing::Upgrade);
    slots.claim(&[], false, NOW);
    // The generation that is then published serves no version of it.
    slots.unserved("a");
    slots.claim(&holds(&file(), "1"), false, NOW);
    for is_start in [false, true] {
        assert_eq!(standing(&slots, "1", false, is_start), Standing::Back);
        assert_eq!(standing(&slots, "2", false, is_start), Standing::Upgrade);
    }
    slots.active("a", "1", NOW);
    assert_eq!(standing(&slots, "1", false, true), Standing::Serves);
    slots.unserved("a");
    assert_eq!(
        standing(&slots, "1", false, false),
        Standing::New,
        "what has lost its place has lost it"
    );
    slots.active("a", "1", NOW + TRIAL);
    assert_eq!(slots.get("a").unwrap().serving_since, NOW + TRIAL, "it serves anew");
    let order =
        [Standing::New, Standing::Upgrade, Standing::Serves, Standing::Back, Standing::Settled];
    assert!(order.is_sorted());
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
        crowd.iter().map(|(file, name)| Claim { file, holds: Some((name, "1")) }).collect();
    slots.claim(&claims, false, NOW);
    crowd.iter().for_each(|(_, name)| slots.active(name, "1", NOW));
}

#[test]
fn plugins_that_go_together_are_all_remembered_and_decisions_outlive_those_that_go_later() {
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
    assert!(slots.get("p0007").is_some_and(|slot| slot.disabled.is_some()));
}

#[test]
fn absent_plugins_are_bounded_and_those_without_a_decision_go_first() {
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
    let holds = |file, name| Claim { file, holds: Some((name, "1")) };
    let mut slots = Slots::default();
    slots.claim(&[holds(&file, "a"), holds(&other, "b")], false, NOW);
    assert_eq!(slots.claim(&[holds(&file, "b"), holds(&other, "a")], false, NOW), []);
    assert_eq!((slots.of_file(&file), slots.of_file(&other)), (Some("b"), Some("a")));
}

#[test]
fn a_disabled_version_stays_so_until_another_serves_in_its_place() {
    let mut slots = after(&["1"]);
    slots.set_disabled("a", true).unwrap();
    slots.found(&file(), "2", "a").unwrap();
    let disabled =
        |slots: &Slots, version: &str| slots.get("a").is_some_and(|slot| slot.is_disabled(version));
    assert!(
        disabled(&slots, "1") && !disabled(&slots, "2"),
        "the command was about the version that served"
    );
    // The new version serves, fails and is rolled back: the version before it is still disabled.
    slots.active("a", "2", NOW);
    slots.on_breaker_opened("a", None, NOW).unwrap();
    slots.active("a", "1", NOW);
    assert!(disabled(&slots, "1"));
    slots.found(&file(), "3", "a").unwrap();
    slots.active("a", "3", NOW);
    slots.broken(&file(), error("4"), true);
    assert!(!disabled(&slots, "3"), "a broken file disables nothing");
}

#[test]
fn a_version_that_failed_is_tried_again_at_a_start_and_one_that_was_taken_back_is_not() {
    let mut slots = after(&["1"]);
    slots.found(&file(), "2", "a").unwrap();
    slots.refused("a", error("2"), true);
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
fn a_digest_that_begins_several_is_no_choice() {
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
    disabled.disabled = Some(disabled.in_file.clone());
    for (slot, conditions, state) in [
        (slot, active, PluginState::Active),
        (slot, Conditions { is_open: true, ..active }, PluginState::Quarantined),
        (Some(&disabled), Conditions { is_open: true, ..active }, PluginState::Disabled),
        (slot, Conditions { is_loading: true, ..active }, PluginState::Active),
        (slot, Conditions { is_loading: true, ..Conditions::default() }, PluginState::Loading),
        (None, Conditions { is_loading: true, ..Conditions::default() }, PluginState::Loading),
        (None, Conditions { is_draining: true, ..Conditions::default() }, PluginState::Draining),
        (slot, Conditions::default(), PluginState::Failed),
        (None, Conditions::default(), PluginState::Failed),
    ] {
        assert_eq!(PluginState::of(slot, conditions), state);
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

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0_u8..6).prop_map(Happening::Good),
        2 => (6_u8..9).prop_map(Happening::Broken),
        2 => Just(Happening::Rescan),
        2 => Just(Happening::Removed),
        1 => Just(Happening::Forget),
        2 => Just(Happening::RollBack),
        1 => (0_u8..6).prop_map(Happening::RollBackTo),
        1 => Just(Happening::Disable),
        1 => Just(Happening::Enable),
        2 => (-60_i16..120).prop_map(Happening::Tripped),
        1 => Just(Happening::Restart),
    ]
}

/// The expected state in its simplest form: what the file holds, what serves, what was chosen.
#[derive(Debug, Default, Clone)]
struct Model {
    /// What the file holds; `None` if there is none.
    in_file: Option<u8>,
    is_broken: bool,
    serving: Option<u8>,
    /// Versions that served, the newest first.
    active: Vec<u8>,
    /// What the file held when the plugin was disabled.
    disabled: Option<u8>,
    /// Whether an operator or a breaker rolled back to the serving version.
    is_chosen: bool,
    /// Whether the file is gone.
    is_absent: bool,
}

impl Model {
    fn is_disabled(&self) -> bool {
        self.disabled.is_some_and(|at| {
            self.serving.is_some() && (self.serving != self.in_file || self.in_file == Some(at))
        })
    }

    /// Records that the file holds something else.
    fn hold(&mut self, version: u8) {
        let last = self.serving.or(self.active.first().copied());
        if self.in_file != Some(version) && last == self.in_file && self.disabled != self.in_file {
            self.disabled = None;
        }
        self.in_file = Some(version);
    }

    fn serve(&mut self, version: u8) {
        self.is_chosen = self.in_file != Some(version);
        self.serving = Some(version);
        self.active.retain(|other| *other != version);
        self.active.insert(0, version);
        self.active.truncate(KEPT);
    }
}

proptest! {
    #[test]
    fn any_order_of_events_leaves_what_the_model_says(happenings in proptest::collection::vec(happening(), 1..80)) {
        let (mut slots, mut model) = (Slots::default(), Model::default());
        // Versions that were rolled back by a breaker, and are bad from then on.
        let mut taken_back: Vec<u8> = Vec::new();
        for happening in happenings {
            let text = |version: u8| version.to_string();
            match happening {
                Happening::Good(version) => {
                    let is_new = model.in_file != Some(version) || model.is_broken;
                    slots.claim(&holds(&file(), &text(version)), false, NOW);
                    if std::mem::take(&mut model.is_absent) && !is_new {
                        // The version that served last serves again.
                        model.serve(model.active[0]);
                    }
                    if is_new {
                        // A version that was rolled back counts as good once the file has changed
                        // to it again.
                        taken_back.clear();
                        model.hold(version);
                        model.is_broken = false;
                        model.serve(version);
                    }
                }
                Happening::Broken(version) => {
                    slots.claim(&[Claim { file: &file(), holds: None }], false, NOW);
                    slots.broken(&file(), error(&text(version)), true);
                    if model.in_file.is_some() && !model.is_absent {
                        model.hold(version);
                        model.is_broken = true;
                    }
                }
                Happening::Rescan => {
                    if let (Some(version), false) = (model.in_file, model.is_broken || model.is_absent) {
                        slots.found(&file(), &text(version), "a").unwrap();
                    }
                }
                Happening::Removed => {
                    slots.claim(&[], false, NOW);
                    model.is_absent = model.in_file.is_some();
                    model.serving = None;
                }
                Happening::Forget => {
                    prop_assert_eq!(slots.forget("a").is_ok(), model.is_absent);
                    if model.is_absent {
                        model = Model::default();
                        taken_back.clear();
                    }
                }
                Happening::RollBack => {
                    let target = model.active.iter().copied().find(|version| Some(*version) != model.serving).filter(|_| !model.is_absent);
                    prop_assert_eq!(slots.roll_back("a", None).ok(), target.map(text));
                    if let Some(target) = target {
                        model.serve(target);
                    }
                }
                Happening::RollBackTo(version) => {
                    let is_kept = !model.is_absent && (model.active.contains(&version) || model.in_file == Some(version));
                    prop_assert_eq!(slots.roll_back("a", Some(&text(version))).is_ok(), is_kept);
                    if is_kept {
                        taken_back.retain(|bad| *bad != version);
                        model.serve(version);
                    }
                }
                Happening::Disable | Happening::Enable => {
                    let is_disabled = matches!(happening, Happening::Disable);
                    prop_assert_eq!(slots.set_disabled("a", is_disabled).is_ok(), model.in_file.is_some());
                    model.disabled = model.in_file.filter(|_| is_disabled);
                }
                Happening::Tripped(seconds) => {
                    let target = model.active.iter().copied().find(|version| Some(*version) != model.serving);
                    let goes_back = (0..TRIAL.as_secs() as i16).contains(&seconds) && model.serving.is_some() && !model.is_chosen;
                    let distance = Duration::from_secs(seconds.unsigned_abs().into());
                    let went = slots.on_breaker_opened("a", None, if seconds < 0 { NOW - distance } else { NOW + distance });
                    prop_assert_eq!(went, target.filter(|_| goes_back).map(text));
                    if let (Some(target), Some(bad), true) = (target, model.serving, goes_back) {
                        model.active.retain(|version| *version != bad);
                        taken_back.push(bad);
                        model.serve(target);
                    }
                }
                Happening::Restart => {
                    let saved = serde_json::to_string(&slots).unwrap();
                    prop_assert_eq!(&serde_json::from_str::<Slots>(&saved).unwrap(), &slots);
                }
            }
            // The best available version is served, as the host does after every event.
            if let Some(best) = slots.wanted("a").first().cloned() {
                slots.active("a", &best, NOW);
            }
            let slot = slots.get("a");
            let present = slot.filter(|slot| !slot.is_absent());
            prop_assert_eq!(present.and_then(|slot| slot.serving.clone()), model.serving.map(text));
            prop_assert_eq!(slot.map(|slot| slot.kept.iter().cloned().collect::<Vec<_>>()).unwrap_or_default(),
                model.active.iter().copied().map(text).collect::<Vec<_>>());
            prop_assert_eq!(present.is_some_and(Slot::is_serving_disabled), model.is_disabled());
            prop_assert!(slots.kept().count() <= 2 + KEPT);
        }
    }
}
