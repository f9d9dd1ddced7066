//! The address file: one line in the data directory that tells commands on this machine where the
//! host listens.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::Listen;
use crate::files;

/// The address file. It exists while the host listens.
#[derive(Debug)]
pub(super) struct AddressFile {
    file: PathBuf,
    url: String,
}

/// Returns the path of the address file.
pub(super) fn address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("address")
}

impl AddressFile {
    /// Writes the URL, with this scheme, of a host that listens on `address`.
    ///
    /// # Errors
    /// If the file can't be written. An existing file is then unchanged.
    pub(super) fn write(data_dir: &Path, scheme: &str, address: SocketAddr) -> io::Result<Self> {
        let (file, url) = (address_file(data_dir), Listen::from(address).local_url(scheme));
        files::replace(&file, &[url.as_bytes(), b"\n"])?;
        Ok(Self { file, url })
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        if std::fs::read_to_string(&self.file).is_ok_and(|text| text.trim() == self.url) {
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_there_while_the_host_is_and_can_be_reached_from_its_machine() {
        let dir = tempfile::tempdir().unwrap();
        for (listen, scheme, said) in [
            ("0.0.0.0:80", "http", "http://127.0.0.1:80\n"),
            ("[::]:80", "https", "https://[::1]:80\n"),
            ("10.1.2.3:80", "http", "http://10.1.2.3:80\n"),
        ] {
            let listen = listen.parse().unwrap();
            let written = AddressFile::write(dir.path(), scheme, listen).unwrap();
            assert_eq!(std::fs::read_to_string(address_file(dir.path())).unwrap(), said);
            drop(written);
            assert!(!address_file(dir.path()).exists());
        }
    }
}
