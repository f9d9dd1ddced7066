//! The format of the file of a store: how it is recognized, its version, and its tables.

/// The SQLite application id of these files, which `file(1)` and the host check: `Sock`.
pub(super) const APPLICATION_ID: u32 = 0x536F_636B;

/// The format of the tables. A host refuses a file with a newer format. This is the first
/// format, so there is no older one to convert.
pub(super) const FORMAT: u32 = 1;

/// `entries` has row ids so that a value of some KiB fits into one page. Without row ids, a row
/// over a quarter of a page takes another page.
pub(super) const TABLES: &str = "
    CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, \
                                 version INTEGER NOT NULL);
    CREATE TABLE sequences (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (only INTEGER PRIMARY KEY CHECK (only = 1), commits INTEGER NOT NULL, bytes \
                                 INTEGER NOT NULL);
    INSERT INTO meta VALUES (1, 0, 0);";
