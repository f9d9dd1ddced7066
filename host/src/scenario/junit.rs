//! The results of scenarios as JUnit XML, which most CI systems show: one test case for each
//! scenario. Written by hand, because five elements need no library.

use std::fmt::Write;

use super::report::{Outcome, ScenarioReport};

/// Returns the XML document.
pub fn junit(reports: &[ScenarioReport]) -> String {
    let count = |outcome| reports.iter().filter(|report| report.outcome() == outcome).count();
    let (failures, errors) = (count(Outcome::Failed), count(Outcome::Error));
    let time: f64 = reports.iter().map(|report| report.took.as_secs_f64()).sum();
    let tests = reports.len();
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    // Writing to a string can't fail.
    let _ = writeln!(
        xml,
        "  <testsuite name=\"sockhop\" tests=\"{tests}\" failures=\"{failures}\" \
         errors=\"{errors}\" time=\"{time:.3}\">"
    );
    for report in reports {
        let (file, name) = (escaped(&report.file.to_string_lossy()), escaped(&report.name));
        let time = report.took.as_secs_f64();
        let _ = write!(
            xml,
            "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" time=\"{time:.3}\""
        );
        let element = match report.outcome() {
            Outcome::Passed => {
                xml.push_str("/>\n");
                continue;
            }
            Outcome::Failed => "failure",
            Outcome::Error => "error",
        };
        let lines = report.lines();
        let message = lines.get(1).map(|line| escaped(line.trim())).unwrap_or_default();
        let text = escaped(&lines.join("\n"));
        let _ = writeln!(
            xml,
            ">\n      <{element} message=\"{message}\">{text}</{element}>\n    </testcase>"
        );
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

/// Escapes text for an attribute or an element. XML 1.0 has no way to write most control
/// characters, so they become U+FFFD.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(sign),
            sign if sign < ' ' || ('\u{7f}'..='\u{9f}').contains(&sign) => escaped.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            sign => escaped.push(sign),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::{Problem, StepReport};

    fn report(problems: Vec<Problem>, error: Option<&str>) -> ScenarioReport {
        ScenarioReport {
            file: "a&b.yaml".into(),
            name: "<\"hello\">".to_owned(),
            steps: vec![StepReport {
                number: 1,
                line: 7,
                title: "ada sends say".to_owned(),
                problems,
                log: Vec::new(),
                log_dropped: 0,
                took: Duration::ZERO,
            }],
            not_run: 0,
            error: error.map(str::to_owned),
            took: Duration::from_millis(1_500),
        }
    }

    #[test]
    fn whatever_a_plugin_writes_the_document_stays_well_formed() {
        let problem = Problem::new("ack", "expected \"]]><&\", found \"\u{0}\u{1b}\u{ffff}\"");
        let reports =
            [report(Vec::new(), None), report(vec![problem], None), report(Vec::new(), Some("no"))];
        let xml = junit(&reports);
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\" time=\"4.500\""), "{xml}");
        assert!(xml.contains("name=\"&lt;&quot;hello&quot;&gt;\" file=\"a&amp;b.yaml\""), "{xml}");
        assert!(
            xml.contains("]]&gt;&lt;&amp;&quot;, found &quot;\u{fffd}\u{fffd}\u{fffd}"),
            "{xml}"
        );
        assert!(xml.contains("step 1 (a&amp;b.yaml:7): ada sends say"), "{xml}");
        assert!(!xml.contains(|sign: char| sign < ' ' && sign != '\n'), "{xml}");
        assert_eq!(xml.matches("<testcase").count(), 3);
    }
}
