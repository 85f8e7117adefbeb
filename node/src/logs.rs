//! The log: to standard error, because standard output is for answers; as text, or as one JSON object a line.
//!
//! The JSON has numbers where there are numbers: `tracing` writes what is shown through `Display`, heights and rounds among
//! them, and integers of 128 bits as texts, which no query can compare.

use std::fmt;
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Config;
use crate::failure::Failure;

/// Fields that are numbers, whatever their type shows itself as; beside them all names that end in `_ms`.
const NUMBERS: [&str; 4] = ["height", "round", "ms", "attempt"];

/// Starts the log.
///
/// # Errors
/// For a filter that is none, or a second call.
pub(crate) fn start(config: &Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .map_err(|e| Failure::config(format!("log.filter: {e}")).field("log.filter").value(&config.log.filter))?;
    // Colours are for terminals; in a file they are noise.
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    // Its own errors would go to standard error too, and panic there: a full disk must not hide why the node stops.
    let builder = builder.log_internal_errors(false);
    let set = if config.log.format == "json" {
        builder.event_format(Numbered::default()).fmt_fields(JsonFields::new()).try_init()
    } else {
        builder.try_init()
    };
    set.map_err(|e| Failure::error("internal", format!("starting the log: {e}")))
}

/// The library's JSON lines, with numbers.
struct Numbered(Format<Json>);

impl Default for Numbered {
    fn default() -> Self {
        Self(Format::default().json().flatten_event(true).with_current_span(true).with_span_list(false))
    }
}

impl<S, N> FormatEvent<S, N> for Numbered
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        writer.write_str(&numbered(line))
    }
}

/// Makes the number fields of a line numbers. A line that is no object stays as it is.
fn numbered(line: String) -> String {
    let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(&line) else { return line };
    let is_number = |name: &str| NUMBERS.contains(&name) || name.ends_with("_ms");
    let mut changed = false;
    for (_, value) in object.iter_mut().filter(|(name, _)| is_number(name)) {
        if let Some(number) = value.as_str().and_then(|text| text.parse::<u64>().ok()) {
            *value = number.into();
            changed = true;
        }
    }
    if changed { format!("{}\n", Value::Object(object)) } else { line }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn heights_and_times_are_numbers() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Numbered::default())
            .fmt_fields(JsonFields::new())
            .with_writer(move || writer.clone())
            .finish();
        let height = types::ids::Height(7);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(%height, round = %3, ms = 12u128, wait_ms = 5u64, block = %"12345678", "block applied");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        for (name, number) in [("height", 7), ("round", 3), ("ms", 12), ("wait_ms", 5)] {
            assert_eq!(line[name], number, "{name} in {text}");
        }
        // An identity that happens to have no letters stays a text.
        assert_eq!((&line["block"], &line["message"]), (&"12345678".into(), &"block applied".into()));
    }
}
