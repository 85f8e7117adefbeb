//! Printing: text for people, or one JSON document.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// Where a command's answer goes: standard output, as text or JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Text, or JSON when asked for.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(crate) const fn json(self) -> bool {
        self.json
    }

    /// Whether a person watches: progress bars make sense.
    pub(crate) fn is_interactive(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// Prints the answer in the form asked for.
    pub(crate) fn answer(self, value: &impl Serialize, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        let value = serde_json::to_value(value)
            .map_err(|e| Failure::error("internal", format!("the answer can't be written as JSON: {e}")))?;
        if self.json {
            print(&value.to_string())
        } else {
            print(&text(&value))
        };
        Ok(())
    }

    /// Prints why a command failed: the document on standard output, or text on standard error.
    pub(crate) fn failed(self, failure: &Failure) {
        if self.json {
            print(&failure.to_json().to_string());
        } else {
            print_error(&failure.to_string());
        }
    }

    /// Prints a line of text on standard error, with `--json` too: the document alone is on standard output.
    pub(crate) fn note(self, text: &str) {
        print_error(text);
    }
}

/// Prints to standard output. A reader that went away is no reason to fail.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()).ok();
}

/// Prints to standard error.
fn print_error(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

/// A list of (name, number) pairs as an object, which is easier to read for people and programs.
pub(crate) fn object_of_pairs(pairs: &Value) -> Value {
    let pair = |entry: &Value| Some((entry.get(0)?.as_str()?.to_string(), entry.get(1)?.clone()));
    match pairs {
        Value::Array(list) => Value::Object(list.iter().filter_map(pair).collect()),
        other => other.clone(),
    }
}

/// A value of an answer as text: strings bare, null as a dash, the rest as JSON.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `name: value` lines, names aligned.
pub(crate) fn lines(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{:width$}  {value}\n", format!("{name}:"), width = width + 1)).collect()
}

/// A table with a head line, columns aligned.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_an_object() {
        let pairs = serde_json::json!([["running", 5], ["fri", 7]]);
        assert_eq!(object_of_pairs(&pairs), serde_json::json!({"running": 5, "fri": 7}));
        assert_eq!(object_of_pairs(&serde_json::json!({"fri": 7})), serde_json::json!({"fri": 7}));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_string(), "1".into()], vec!["bcd".into(), "22".into()]];
        assert_eq!(table(&["name", "n"], &rows), "name  n\na     1\nbcd   22\n");
        assert_eq!(lines(&[("a", "1".into()), ("long", "2".into())]), "a:     1\nlong:  2\n");
    }
}
