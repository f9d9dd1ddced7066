//! Finds environment variables that are misspelt settings: `SOCKHOP_SERVER_LISTEN`, with one
//! underscore instead of two.

use super::ENV_PREFIX;

/// Names without a section that are read elsewhere: the key for the command line, and variables of
/// tests and tools.
const OTHERS: [&str; 3] = ["key", "bin", "guests_dir"];

/// Tools set this name, together with one of the others, for the directory of the plugins under
/// test. Alone, it is a misspelt `plugins.dir`.
const PLUGINS_OF_TOOLS: (&str, [&str; 2]) = ("plugins_dir", ["guests_dir", "bin"]);

/// Returns the first of `names` that is a setting with underscores missing, and its correct
/// spelling. `keys_of` lists the keys of a section.
///
/// Other unknown names are no errors: for a service named `sockhop`, Kubernetes sets
/// `SOCKHOP_SERVICE_HOST`.
pub(super) fn misspelt<'a>(
    names: impl IntoIterator<Item = String>,
    sections: &[&str],
    keys_of: impl Fn(&str) -> Vec<&'a str>,
    keys_of_a_plugin: &[&str],
) -> Option<(String, String)> {
    let names: Vec<_> =
        names.into_iter().filter_map(|name| Some((setting(&name)?, name))).collect();
    let has = |wanted: &str| names.iter().any(|(setting, _)| setting == wanted);
    let is_of_tools = PLUGINS_OF_TOOLS.1.iter().any(|other| has(other));
    names.iter().find_map(|(setting, name)| {
        if OTHERS.contains(&setting.as_str())
            || setting.starts_with("test_")
            || (is_of_tools && setting == PLUGINS_OF_TOOLS.0)
        {
            return None;
        }
        let section =
            sections.iter().find(|section| setting.starts_with(&format!("{section}_")))?;
        let key = setting.get(section.len() + 1..)?;
        let path = if keys_of(section).contains(&key) {
            format!("{section}__{key}")
        } else {
            let own = keys_of_a_plugin
                .iter()
                .find(|own| *section == "plugins" && key.ends_with(&format!("_{own}")))?;
            format!("{section}__{}__{own}", key.strip_suffix(own)?.trim_end_matches('_'))
        };
        Some((name.clone(), format!("{ENV_PREFIX}{}", path.to_uppercase())))
    })
}

/// The rest of `name` after the prefix, in lower case. Returns `None` if the prefix is missing, or
/// if the name is correct already (it contains two underscores).
fn setting(name: &str) -> Option<String> {
    let prefix =
        name.get(..ENV_PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(ENV_PREFIX))?;
    let rest = name.get(prefix.len()..)?;
    (!rest.contains("__")).then(|| rest.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Option<String> {
        let names = names.iter().map(|name| (*name).to_owned());
        let keys_of = |section: &str| match section {
            "server" => vec!["listen", "allowed_origins"],
            "plugins" => vec!["dir", "required"],
            _ => Vec::new(),
        };
        misspelt(names, &["server", "plugins"], keys_of, &["event_cpu_ms", "instances"])
            .map(|(_, right)| right)
    }

    #[test]
    fn a_setting_with_one_underscore_is_found_and_other_names_pass() {
        let found = |name: &str, right: &str| {
            assert_eq!(of(&["HOME", name]), Some(right.to_owned()), "{name}")
        };
        found("SOCKHOP_SERVER_LISTEN", "SOCKHOP_SERVER__LISTEN");
        found("sockhop_server_allowed_origins", "SOCKHOP_SERVER__ALLOWED_ORIGINS");
        found("SOCKHOP_PLUGINS_DIR", "SOCKHOP_PLUGINS__DIR");
        found(
            "SOCKHOP_PLUGINS_MEMORY_LOGS_EVENT_CPU_MS",
            "SOCKHOP_PLUGINS__MEMORY_LOGS__EVENT_CPU_MS",
        );
        for name in [
            "SOCKHOP_KEY",
            "SOCKHOP_BIN",
            "SOCKHOP_GUESTS_DIR",
            "SOCKHOP_TEST_SERVER_LISTEN",
            "SOCKHOP_SERVER__LISTEN",
        ] {
            assert_eq!(of(&[name]), None, "{name}");
        }
        for name in [
            "SOCKHOP_SERVICE_HOST",
            "SOCKHOP_PORT_4000_TCP",
            "SOCKHOP_SERVER_PORT",
            "SOCKHOP_",
            "SERVER_LISTEN",
            "É",
        ] {
            assert_eq!(of(&[name]), None, "{name}");
        }
        for other in ["SOCKHOP_GUESTS_DIR", "SOCKHOP_BIN"] {
            assert_eq!(of(&["SOCKHOP_PLUGINS_DIR", other]), None, "what `cargo xtask test` sets");
        }
    }
}
