//! The results, for readers and for scripts: medians over the rounds, ratios to the peers, and the
//! bars of the contract. Only this module prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is the program's only output"
)]

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::sequence::Faults;
use crate::servers::Kind;
use crate::trial::Verdict;

/// Writes a progress line to standard error.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Writes the document to standard output.
pub(crate) fn print_document(document: &Value) {
    println!("{document}");
}

/// Prints the results of a part that judges: one row for each promise, and the figures below.
pub(crate) fn print_verdicts(verdicts: &[Verdict], document: &Value, as_json: bool) {
    if as_json {
        let verdicts: Vec<_> = verdicts
            .iter()
            .map(|v| json!({"promise": v.what, "found": v.found, "is_kept": v.is_kept}))
            .collect();
        return print_document(&json!({"verdicts": verdicts, "figures": document}));
    }
    let mut table = empty(["promise", "", "found"].map(str::to_owned).to_vec());
    for verdict in verdicts {
        table.add_row([
            verdict.what.as_str(),
            if verdict.is_kept { "✓" } else { "✗" },
            verdict.found.as_str(),
        ]);
    }
    println!("{table}\n\n{document:#}");
}

/// The figures of one measure: for each server, one figure for each round.
#[derive(Debug)]
struct Measure {
    name: String,
    unit: &'static str,
    rounds: BTreeMap<Kind, Vec<f64>>,
}

impl Measure {
    /// Returns the figure of the guarded host as a multiple of Sockhop's: the median over the
    /// rounds of the ratio within one round. The difference is small, and what else happens on the
    /// machine changes more between two rounds than within one.
    fn guarded(&self) -> Option<f64> {
        let (guarded, ours) = (self.rounds.get(&Kind::Guarded)?, self.rounds.get(&Kind::Sockhop)?);
        let ratios: Vec<_> =
            guarded.iter().zip(ours).map(|(guarded, ours)| guarded / ours).collect();
        Some(median(&ratios))
    }
}

/// One row of the contract's table.
#[derive(Debug)]
struct Bar {
    what: String,
    value: f64,
    most: f64,
    unit: &'static str,
}

/// All measures, in the order of measuring.
#[derive(Debug, Default)]
pub(crate) struct Report {
    measures: Vec<Measure>,
    faults: BTreeMap<Kind, Faults>,
    documents: Map<String, Value>,
}

/// The contract's bars for Sockhop relative to a peer: the measure, the peer, and the maximum ratio
/// to the peer's figure.
const RATIOS: [(&str, Kind, f64); 13] = [
    ("ping, 1 in flight: server CPU", Kind::Native, 1.3),
    ("ping, 1 in flight: server CPU", Kind::Pool, 1.3),
    ("ping, 1 in flight: server CPU", Kind::Node, 0.5),
    ("ping, 1 in flight: server CPU", Kind::Python, 0.1),
    ("ping, 8 in flight: server CPU", Kind::Native, 1.75),
    ("ping, 8 in flight: server CPU", Kind::Pool, 1.75),
    ("ping, 8 in flight: server CPU", Kind::Node, 1.0 / 3.0),
    ("ping, 8 in flight: server CPU", Kind::Python, 0.1),
    ("ping, open loop: p99", Kind::Native, 1.5),
    ("fan-out to 500, 1 in flight: server CPU per delivery", Kind::Native, 0.8),
    ("fan-out to 500, 4 in flight: server CPU per delivery", Kind::Native, 0.9),
    ("fan-out to 1000, 1 in flight: server CPU per delivery", Kind::Native, 0.8),
    ("idle: memory per connection", Kind::Native, 1.25),
];

/// The bars for the guarded host relative to Sockhop: the measure and the maximum ratio.
const GUARDED: [(&str, f64); 2] =
    [("ping, 1 in flight: server CPU", 1.03), ("ping, 8 in flight: server CPU", 1.03)];

/// The bars for Sockhop alone: the measure and its maximum.
const LIMITS: [(&str, f64); 7] = [
    ("idle: memory per connection", 12.0),
    ("start with 4 cached plugins", 500.0),
    ("drop of a plugin never seen to its first answer", 1_000.0),
    ("drop of a plugin with its artifact cached to its first answer", 400.0),
    ("reloads under load: p99 over steady", 2.0),
    ("spinning neighbour: p99 above steady", 10.0),
    ("spinning neighbour: most that a spinner overran", 20.0),
];

impl Report {
    /// Records one figure.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        kind: Kind,
        value: f64,
    ) {
        let name = name.into();
        let place =
            self.measures.iter().position(|measure| measure.name == name).unwrap_or_else(|| {
                self.measures.push(Measure { name: name.clone(), unit, rounds: BTreeMap::new() });
                self.measures.len() - 1
            });
        note(&format!("  {:8} {name}: {} {unit}", kind.name(), figure(value)));
        self.measures[place].rounds.entry(kind).or_default().push(value);
    }

    /// Records the faults of a server.
    pub(crate) fn add_faults(&mut self, kind: Kind, during: &str, faults: Faults) {
        if !faults.is_none() {
            note(&format!("  {:8} {during}: {faults:?}", kind.name()));
        }
        self.faults.entry(kind).or_default().add(faults);
    }

    /// Keeps a document with details that don't fit into the table.
    pub(crate) fn add_document(&mut self, name: &str, document: Value) {
        self.documents.insert(name.to_owned(), document);
    }

    /// Returns the sum of all faults of a server.
    pub(crate) fn faults(&self, kind: Kind) -> Faults {
        self.faults.get(&kind).copied().unwrap_or_default()
    }

    /// Returns the median of a measure over the rounds, or `None` if there is no figure.
    pub(crate) fn median(&self, name: &str, kind: Kind) -> Option<f64> {
        let measure = self.measures.iter().find(|measure| measure.name == name)?;
        measure.rounds.get(&kind).map(|rounds| median(rounds))
    }

    fn has(&self, kind: Kind) -> bool {
        self.measures.iter().any(|measure| measure.rounds.contains_key(&kind))
    }

    fn bars(&self) -> Vec<Bar> {
        let ratios = RATIOS.iter().filter_map(|&(name, peer, most)| {
            let theirs = self.median(name, peer)?;
            // If the peer has a figure and Sockhop was measured but has none, Sockhop could not do
            // what the peer can.
            let ours = self
                .median(name, Kind::Sockhop)
                .or_else(|| self.has(Kind::Sockhop).then_some(f64::INFINITY))?;
            let value = ours / theirs;
            Some(Bar { what: name.to_owned(), value, most, unit: peer_unit(peer) })
        });
        let limits = LIMITS.iter().filter_map(|&(name, most)| {
            let unit = self.measures.iter().find(|measure| measure.name == name)?.unit;
            Some(Bar {
                what: name.to_owned(),
                value: self.median(name, Kind::Sockhop)?,
                most,
                unit,
            })
        });
        let guarded = GUARDED.iter().filter_map(|&(name, most)| {
            let value = self.measures.iter().find(|measure| measure.name == name)?.guarded()?;
            let what = format!("{name}, guarded");
            Some(Bar { what, value, most, unit: peer_unit(Kind::Sockhop) })
        });
        ratios.chain(limits).chain(guarded).collect()
    }

    /// Returns the document for scripts.
    pub(crate) fn document(&self, environment: &Value) -> Value {
        let measures: Map<String, Value> =
            self.measures.iter().map(|measure| (measure.name.clone(), of(measure))).collect();
        let bars: Vec<_> = self.bars().iter().map(|bar| {
            json!({"measure": bar.what, "value": bar.value, "at_most": bar.most, "unit": bar.unit, "is_met": bar.value <= bar.most})
        }).collect();
        let faults: Map<String, Value> = self
            .faults
            .iter()
            .map(|(kind, faults)| {
                (
                    kind.name().to_owned(),
                    json!({
            "lost": faults.lost, "duplicated": faults.duplicated, "reordered": faults.reordered, "wrong": faults.wrong,
            "closed": faults.closed}),
                )
            })
            .collect();
        json!({"environment": environment, "measures": measures, "bars": bars, "faults": faults, "details": self.documents})
    }

    /// Prints the tables for readers.
    pub(crate) fn print(&self, kinds: &[Kind]) {
        let mut head = vec!["median over the rounds".to_owned(), "unit".to_owned()];
        head.extend(kinds.iter().map(|kind| kind.name().to_owned()));
        let peers: Vec<Kind> = kinds
            .iter()
            .copied()
            .filter(|kind| !matches!(kind, Kind::Sockhop | Kind::Guarded))
            .collect();
        head.extend(peers.iter().map(|peer| format!("/{}", peer.name())));
        let has_guarded = kinds.contains(&Kind::Guarded) && kinds.contains(&Kind::Sockhop);
        if has_guarded {
            head.push("guarded/sockhop".to_owned());
        }
        let mut table = empty(head);
        for measure in &self.measures {
            let mut row = vec![measure.name.clone(), measure.unit.to_owned()];
            row.extend(kinds.iter().map(|kind| {
                measure.rounds.get(kind).map(|rounds| figure(median(rounds))).unwrap_or_default()
            }));
            let ours = measure.rounds.get(&Kind::Sockhop).map(|rounds| median(rounds));
            row.extend(peers.iter().map(|peer| {
                let theirs = measure.rounds.get(peer).map(|rounds| median(rounds));
                ours.zip(theirs)
                    .map(|(ours, theirs)| format!("{:.2}", ours / theirs))
                    .unwrap_or_default()
            }));
            if has_guarded {
                row.push(measure.guarded().map(|ratio| format!("{ratio:.3}")).unwrap_or_default());
            }
            table.add_row(row);
        }
        println!("{}", aligned(table));
        let bars = self.bars();
        if !bars.is_empty() {
            let mut table = empty(["bar", "", "at most", "is"].map(str::to_owned).to_vec());
            for bar in bars {
                let sign = if bar.value <= bar.most { "✓" } else { "✗" };
                let cell = |value: f64| {
                    // A ratio near 1 needs one digit more.
                    let is_fine = bar.unit == peer_unit(Kind::Sockhop);
                    let value = if is_fine { format!("{value:.3}") } else { figure(value) };
                    format!("{value} {}", bar.unit)
                };
                table.add_row([bar.what.clone(), sign.to_owned(), cell(bar.most), cell(bar.value)]);
            }
            println!("\n{}", aligned(table));
        }
        for (name, document) in &self.documents {
            println!("\n{name}: {document:#}");
        }
        println!();
        for kind in kinds {
            let faults = self.faults(*kind);
            println!(
                "{}: {} lost, {} duplicated, {} out of order, {} wrong, {} connections closed",
                kind.name(),
                faults.lost,
                faults.duplicated,
                faults.reordered,
                faults.wrong,
                faults.closed
            );
        }
    }
}

const fn peer_unit(peer: Kind) -> &'static str {
    match peer {
        Kind::Sockhop => "× sockhop",
        Kind::Library => "× library",
        Kind::Guarded => "× guarded",
        Kind::Native => "× native",
        Kind::Pool => "× pool",
        Kind::Node => "× node",
        Kind::Python => "× python",
    }
}

fn of(measure: &Measure) -> Value {
    let servers: Map<String, Value> = measure
        .rounds
        .iter()
        .map(|(kind, rounds)| {
            (kind.name().to_owned(), json!({"median": median(rounds), "rounds": rounds}))
        })
        .collect();
    json!({"unit": measure.unit, "servers": servers})
}

pub(crate) fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Formats a value with three significant digits, because more would be noise.
fn figure(value: f64) -> String {
    if value.is_infinite() {
        return "out of reach".to_owned();
    }
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

fn empty(head: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    table
}

fn aligned(mut table: Table) -> Table {
    table
        .column_iter_mut()
        .skip(2)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_compares_medians() {
        let mut report = Report::default();
        for (ours, theirs) in [(12.0, 10.0), (99.0, 10.0), (13.0, 10.0)] {
            report.add(RATIOS[0].0, "µs", Kind::Sockhop, ours);
            report.add(RATIOS[0].0, "µs", Kind::Native, theirs);
        }
        let bars = report.bars();
        assert_eq!(bars.iter().map(|bar| bar.value).collect::<Vec<_>>(), [1.3]);
    }

    #[test]
    fn the_guarded_host_is_compared_with_sockhop_round_by_round() {
        let mut report = Report::default();
        for (guarded, ours) in [(10.1, 10.0), (31.5, 30.0), (20.4, 20.0)] {
            report.add(GUARDED[0].0, "µs", Kind::Guarded, guarded);
            report.add(GUARDED[0].0, "µs", Kind::Sockhop, ours);
        }
        let bars = report.bars();
        assert_eq!(
            bars.iter().map(|bar| (bar.value, bar.most)).collect::<Vec<_>>(),
            [(1.02, 1.03)]
        );
    }
}
