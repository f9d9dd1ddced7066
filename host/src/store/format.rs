//! The format of the file of a store: how it is recognized, its version, and its tables.

/// The SQLite application id of these files, which `file(1)` and the host check: `Sock`.
pub(super) const APPLICATION_ID: u32 = 0x536F_636B;

/// The newest format of the tables that this host knows. A host refuses a file with a newer format.
pub(super) const FORMAT: u32 = LOAD_FORMAT;

/// The first format, in which a file is created. It stays in it until its plugin sets a timer, asks
/// for a delivery or handles `$load`, so that an older host can still use it.
pub(super) const FIRST_FORMAT: u32 = 1;

/// The format with [`TIMER_TABLES`]. A host that does not know it would never fire the timers.
pub(super) const TIMER_FORMAT: u32 = 2;

/// The format with [`DELIVERY_TABLES`]. A host that does not know it would never send them.
pub(super) const DELIVERY_FORMAT: u32 = 4;

/// The format with [`LOAD_TABLES`]. A host that does not know it would import entries, and not send
/// `$load` again.
pub(super) const LOAD_FORMAT: u32 = 5;

/// A format of development builds: as [`DELIVERY_FORMAT`], but its deliveries have no `first`.
pub(super) const UNORDERED_FORMAT: u32 = 3;

/// `entries` has row ids so that a value of some KiB fits into one page. Without row ids, a row
/// over a quarter of a page takes another page.
pub(super) const TABLES: &str = "
    CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, \
                                 version INTEGER NOT NULL);
    CREATE TABLE sequences (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (only INTEGER PRIMARY KEY CHECK (only = 1), commits INTEGER NOT NULL, bytes \
                                 INTEGER NOT NULL);
    INSERT INTO meta VALUES (1, 0, 0);";

/// The timers of a plugin. `next` is the time of the next attempt. `schedule` is set for a timer
/// that the host sets again when it has fired. `died` is set for one that fires no more. `bytes` is
/// what the timer counts against the quota. An id is never used again: it also identifies a timer
/// while its handler runs. `data` is the last column, so that the others are read without it.
pub(super) const TIMER_TABLES: &str = "
    CREATE TABLE timers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, \
                                       key TEXT NOT NULL, due INTEGER NOT NULL, \
                                       next INTEGER NOT NULL, \
                                       attempts INTEGER NOT NULL DEFAULT 0, died INTEGER, \
                                       bytes INTEGER NOT NULL, schedule TEXT, error TEXT, \
                                       data TEXT NOT NULL) STRICT;
    CREATE UNIQUE INDEX timers_set ON timers (name, key) WHERE died IS NULL;
    CREATE INDEX timers_next ON timers (name, next, id) WHERE died IS NULL;
    CREATE INDEX timers_dead ON timers (id) WHERE died IS NOT NULL;";

/// The deliveries of a plugin. `delivery` is the id that the receiver gets. `first` is 1 for the
/// one with the lowest id of those of a key that wait: only this one can be sent. `next` is the
/// time of the next attempt. `died` is set for one that is sent no more. `status` and `error` are
/// those of the last attempt. `bytes` is what the delivery counts against the quota. An id is never
/// used again: ids are the order of deliveries. `headers` has one line for each header.
pub(super) const DELIVERY_TABLES: &str = "
    CREATE TABLE deliveries (id INTEGER PRIMARY KEY AUTOINCREMENT, delivery TEXT NOT NULL, \
                                          key TEXT NOT NULL, origin TEXT NOT NULL, \
                                          created INTEGER NOT NULL, \
                                          first INTEGER NOT NULL DEFAULT 0, \
                                          next INTEGER NOT NULL, \
                                          attempts INTEGER NOT NULL DEFAULT 0, died INTEGER, \
                                          bytes INTEGER NOT NULL, status INTEGER, error TEXT, \
                                          result TEXT, method TEXT NOT NULL, url TEXT NOT NULL, \
                                          headers BLOB NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE INDEX deliveries_first ON deliveries (origin, next, id) WHERE first = 1;
    CREATE INDEX deliveries_waiting ON deliveries (key, id) WHERE died IS NULL;
    CREATE INDEX deliveries_dead ON deliveries (id) WHERE died IS NOT NULL;";

/// How far each version of the plugin is with `$load`. `finished` is set when it has finished. Ids
/// are the order in which the versions have begun.
pub(super) const LOAD_TABLES: &str = "
    CREATE TABLE loads (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, \
                                     done INTEGER NOT NULL, total INTEGER NOT NULL, \
                                     finished INTEGER) STRICT;";

/// Brings the table of deliveries from [`UNORDERED_FORMAT`] to [`DELIVERY_FORMAT`].
pub(super) const ORDER_DELIVERIES: &str = "
    ALTER TABLE deliveries ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
    DROP INDEX deliveries_waiting;
    CREATE INDEX deliveries_first ON deliveries (origin, next, id) WHERE first = 1;
    CREATE INDEX deliveries_waiting ON deliveries (key, id) WHERE died IS NULL;
    UPDATE deliveries SET first = 1
        WHERE id IN (SELECT min(id) FROM deliveries WHERE died IS NULL GROUP BY key);";
