//! What the answer of a running host says about a deployed version. Pure functions.

use serde_json::Value;

/// A deployed version, and what was known of the plugin before its file was placed.
pub(super) struct Deployment<'version> {
    pub(super) digest: &'version str,
    /// Whether the file had other content before, or did not exist.
    pub(super) is_new: bool,
    /// The plugin's `last_error` before the file was placed. This error is not about the new file.
    pub(super) error_before: Value,
}

/// The result of deploying a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DeployStatus {
    /// The version serves.
    Serves,
    /// The version serves now, with an error: it may not serve after a restart.
    ServesBut(String),
    /// An operator has disabled the plugin. Otherwise the version would serve.
    Disabled,
    /// This version serves instead, because an operator rolled back to it, or because the host did
    /// so after the deployed version had failed too often. The content of the file has not changed
    /// since.
    HeldBack(String),
    /// The version has failed too often.
    Quarantined(String),
    /// The version does not serve, for this reason.
    Refused(String),
}

impl Deployment<'_> {
    /// The result for the version, from the plugin's `row`. Returns `None` while it is not known.
    pub(super) fn status(&self, row: &Value) -> Option<DeployStatus> {
        let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str);
        let error = text("/last_error/reason")
            .filter(|_| text("/last_error/digest") == Some(self.digest))
            .map(str::to_owned);
        if text("/digest") == Some(self.digest) {
            match (text("/state")?, &error) {
                ("active", None) => return Some(DeployStatus::Serves),
                ("active", Some(reason)) => return Some(DeployStatus::ServesBut(reason.clone())),
                ("disabled", _) => return Some(DeployStatus::Disabled),
                ("quarantined", reason) => {
                    return Some(DeployStatus::Quarantined(reason.clone().unwrap_or_default()));
                }
                _ => {}
            }
        }
        let is_stale = self.is_new && row.get("last_error") == Some(&self.error_before);
        let is_known = !self.is_new || text("/in_file") == Some(self.digest);
        match (error, text("/pinned")) {
            // A version that the host retries is not refused.
            (Some(_), _) if !is_stale && is_retried(row) => None,
            (Some(reason), _) if !is_stale => Some(DeployStatus::Refused(reason)),
            (_, Some(pinned)) if is_known => Some(DeployStatus::HeldBack(pinned.to_owned())),
            _ => None,
        }
    }

    /// Why the version does not serve yet, if the host retries it.
    pub(super) fn trouble<'row>(&self, row: &'row Value) -> Option<&'row str> {
        let is_its_own =
            row.pointer("/last_error/digest").and_then(Value::as_str) == Some(self.digest);
        row.pointer("/last_error/reason")
            .and_then(Value::as_str)
            .filter(|_| is_its_own && is_retried(row))
    }
}

fn is_retried(row: &Value) -> bool {
    row.get("retried").and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NEW: Deployment<'_> = Deployment { digest: "b", is_new: true, error_before: Value::Null };
    const SAME: Deployment<'_> =
        Deployment { digest: "b", is_new: false, error_before: Value::Null };

    #[test]
    fn a_version_serves_is_refused_or_is_waited_for() {
        let error = json!({"digest": "b", "reason": "no", "at": "t"});
        for (deployment, row, status) in [
            (&NEW, json!({"code": "not_found"}), None),
            (&NEW, json!({"digest": "a", "state": "active", "last_error": null}), None),
            (&NEW, json!({"digest": "a", "state": "disabled", "last_error": null}), None),
            (
                &NEW,
                json!({"digest": "b", "state": "active", "last_error": null}),
                Some(DeployStatus::Serves),
            ),
            (
                &NEW,
                json!({"digest": "b", "state": "active", "last_error": error}),
                Some(DeployStatus::ServesBut("no".to_owned())),
            ),
            (
                &NEW,
                json!({"digest": "a", "state": "active", "last_error": error}),
                Some(DeployStatus::Refused("no".to_owned())),
            ),
            (
                &NEW,
                json!({"digest": null, "state": "failed", "last_error": error}),
                Some(DeployStatus::Refused("no".to_owned())),
            ),
            (
                &SAME,
                json!({"digest": "b", "state": "disabled", "last_error": null}),
                Some(DeployStatus::Disabled),
            ),
            (
                &SAME,
                json!({"digest": "a", "state": "active", "last_error": null, "pinned": "a"}),
                Some(DeployStatus::HeldBack("a".to_owned())),
            ),
            (
                &NEW,
                json!({"digest": "a", "state": "active", "last_error": null, "pinned": "a", "in_file": "a"}),
                None,
            ),
            (
                &NEW,
                json!({"digest": null, "state": "failed", "last_error": error, "retried": true}),
                None,
            ),
            (
                &NEW,
                json!({"digest": "a", "state": "active", "last_error": null, "pinned": "a", "in_file": "b"}),
                Some(DeployStatus::HeldBack("a".to_owned())),
            ),
            (
                &SAME,
                json!({"digest": "b", "state": "quarantined", "last_error": error}),
                Some(DeployStatus::Quarantined("no".to_owned())),
            ),
        ] {
            assert_eq!(deployment.status(&row), status, "{row}");
        }
    }

    #[test]
    fn an_error_that_was_there_before_the_new_content_is_not_about_it() {
        let error = json!({"digest": "b", "reason": "no", "at": "then"});
        let row = json!({"digest": "a", "state": "active", "last_error": error});
        assert_eq!(Deployment { error_before: error, ..NEW }.status(&row), None);
        let again = json!({"digest": "a", "state": "active", "last_error": {"digest": "b", "reason": "no", "at": "now"}});
        assert_eq!(
            Deployment { error_before: row["last_error"].clone(), ..NEW }.status(&again),
            Some(DeployStatus::Refused("no".to_owned()))
        );
    }
}
