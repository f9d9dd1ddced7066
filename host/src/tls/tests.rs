//! Pairs of certificates and keys that are good, bad and half written.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

/// A certificate and its key, as PEM.
fn pem(years: (i32, i32)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn good() -> (String, String) {
    pem((2020, 4000))
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> TlsConfig {
        let at = |name| self.0.path().join(name);
        TlsConfig { certificate_file: at("certificate.pem"), key_file: at("key.pem") }
    }

    fn write(&self, certificate: &str, key: &str) -> TlsConfig {
        let config = self.config();
        std::fs::write(&config.certificate_file, certificate).unwrap();
        std::fs::write(&config.key_file, key).unwrap();
        config
    }
}

/// Identifies the pair that is served.
fn served(tls: &Tls) -> usize {
    Arc::as_ptr(&tls.current.load().server()) as usize
}

#[test]
fn each_problem_of_a_pair_is_named_with_its_file() {
    let directory = Directory::new();
    let (certificate, key) = good();
    let (_, other_key) = good();
    let cut = &certificate[..certificate.len() / 2];
    let not_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let not_key = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    let (of_certificate, of_key) = ("server.tls.certificate_file: ", "server.tls.key_file: ");
    for (certificate, key, setting, problem) in [
        ("hello", &*key, of_certificate, "is not PEM; expected a certificate"),
        ("", &key, of_certificate, "is not PEM; expected a certificate"),
        (&key, &key, of_certificate, "has no certificate"),
        (cut, &key, of_certificate, "is not valid PEM"),
        (not_der, &key, of_certificate, "has a certificate that can't be used"),
        (&certificate, "hello", of_key, "is not PEM; expected a private key"),
        (&certificate, &certificate, of_key, "has no private key"),
        (&certificate, not_key, of_key, "has a private key that can't be used"),
        (&certificate, &other_key, "server.tls: ", "is not that of the first certificate"),
    ] {
        let config = directory.write(certificate, key);
        let error = check(&config).unwrap_err().to_string();
        assert!(error.starts_with(setting) && error.contains(problem), "{problem}: {error}");
        let file =
            if setting == of_certificate { &config.certificate_file } else { &config.key_file };
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
    }
    let long = "x".repeat((1 << 20) + 1);
    let error = check(&directory.write(&long, &key)).unwrap_err().to_string();
    assert!(error.contains("has more than 1048576 bytes"), "{error}");
    let config = directory.write(&certificate, &key);
    std::fs::remove_file(&config.key_file).unwrap();
    let error = check(&config).unwrap_err();
    assert!(matches!(&error, TlsError::Unreadable { file, .. } if *file == config.key_file));
    assert!(error.to_string().starts_with("server.tls.key_file: can't read "), "{error}");
}

#[test]
fn a_chain_of_certificates_and_a_file_with_both_are_accepted() {
    let directory = Directory::new();
    let (certificate, key) = good();
    let (issuer, _) = good();
    let both = format!("{key}\nsome text\n{certificate}{issuer}");
    let config = directory.write(&both, &both);
    assert_eq!(check(&config).unwrap(), None);
}

#[test]
fn a_certificate_that_is_not_valid_now_is_accepted_with_a_warning() {
    let directory = Directory::new();
    for (years, warning) in [
        ((2020, 4000), None),
        ((2000, 2020), Some("the certificate has expired at 2020-01-01T00:00:00Z")),
        ((3000, 4000), Some("the certificate is not valid before 3000-01-01T00:00:00Z")),
    ] {
        let (certificate, key) = pem(years);
        let said = check(&directory.write(&certificate, &key)).unwrap();
        assert_eq!(said.is_some(), warning.is_some(), "{said:?}");
        assert!(said.unwrap_or_default().starts_with(warning.unwrap_or_default()));
    }
    let (certificate, key) = pem((2000, 2020));
    let tls = Tls::load(&directory.write(&certificate, &key)).unwrap();
    assert_eq!(tls.expires_at(), Some(1_577_836_800));
}

#[test]
fn a_pair_is_swapped_when_both_files_fit_each_other() {
    let directory = Directory::new();
    let ((certificate, key), (new_certificate, new_key)) = (good(), good());
    let tls = Tls::load(&directory.write(&certificate, &key)).unwrap();
    let error = || tls.files().error.clone();
    let before = served(&tls);
    tls.refresh();
    assert_eq!((served(&tls), error()), (before, None), "nothing has changed");
    directory.write(&new_certificate, &key);
    tls.refresh();
    assert_eq!(served(&tls), before, "half written");
    assert!(error().unwrap().contains("is not that of the first certificate"));
    // Also if it is never completed.
    directory.write(&certificate, &key);
    tls.refresh();
    assert_eq!((served(&tls), error()), (before, None));
    directory.write(&new_certificate, &new_key);
    tls.refresh();
    assert_ne!(served(&tls), before);
    assert_eq!(error(), None);
}

/// cert-manager and certbot replace a symbolic link.
#[cfg(unix)]
#[test]
fn a_symbolic_link_is_followed_each_time() {
    let directory = Directory::new();
    let link = directory.0.path().join("live");
    let point = |name: &str, (certificate, key): (String, String)| {
        let versioned = directory.0.path().join(name);
        std::fs::create_dir(&versioned).unwrap();
        std::fs::write(versioned.join("certificate.pem"), certificate).unwrap();
        std::fs::write(versioned.join("key.pem"), key).unwrap();
        let new: PathBuf = directory.0.path().join("new");
        std::os::unix::fs::symlink(&versioned, &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
    };
    point("1", good());
    let at = |name: &str| -> PathBuf { Path::new(&link).join(name) };
    let config = TlsConfig { certificate_file: at("certificate.pem"), key_file: at("key.pem") };
    let tls = Tls::load(&config).unwrap();
    let before = served(&tls);
    point("2", good());
    tls.refresh();
    assert_ne!(served(&tls), before);
}

#[test]
fn a_reload_names_other_files_or_changes_nothing() {
    let (directory, other) = (Directory::new(), Directory::new());
    let (certificate, key) = good();
    let config = directory.write(&certificate, &key);
    let tls = Tls::load(&config).unwrap();
    let before = served(&tls);
    tls.take(Tls::prepare(&config).unwrap());
    assert_eq!(served(&tls), before, "nothing has changed");
    assert!(matches!(Tls::prepare(&other.config()), Err(TlsError::Unreadable { .. })));
    tls.refresh();
    assert_eq!((served(&tls), tls.files().error.clone()), (before, None), "the files of before");
    let (certificate, key) = good();
    let config = other.write(&certificate, &key);
    let ready = Tls::prepare(&config).unwrap();
    assert_eq!(served(&tls), before, "only prepared");
    tls.take(ready);
    assert_ne!(served(&tls), before);
    assert_eq!(tls.files().config, config);
}
