//! The entry point of the fuzzer for the configuration. The module `fuzzing` in `lib.rs` lists all
//! entry points.

use super::Config;

/// Loads `data` as a configuration file. Panics if an error has no text, or if two loads differ.
pub fn configuration(data: &[u8]) {
    let name = format!("sockhop-configuration-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    if std::fs::write(&file, data).is_err() {
        return;
    }
    match Config::load(Some(&file)) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(config) => {
            assert_eq!(Config::load(Some(&file)).ok().as_ref(), Some(&config));
            for (name, settings) in &config.plugins.by_name {
                assert_eq!(&config.of_plugin(name), settings);
                assert!(
                    settings.limits.instance_memory_bytes.get() <= config.largest_instance_memory()
                );
            }
        }
    }
    let _ = std::fs::remove_file(file);
}
