//! Ids of JSON-RPC calls. The specification lets them be texts, numbers and null; the library knows no numbers but those of
//! 64 bits without a sign, and takes a call with another id for a notification. So a call with such a number is passed on
//! under a text in its place, and its answer gets the number back, digit for digit. What has no legal id is refused here,
//! under the id null.
//!
//! Over HTTP the listener admits a body, has it served, and restores the answer; any other way in does the same with its
//! messages.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What stands in an admitted text for an entry that is no call: the library answers it as an invalid request of id null.
const NO_CALL: &str = "0";
/// What stands there for a number that the library does not know.
const STAND_IN: &str = "\"number\"";

/// A text that can be served, and what its answer has to become.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The text to serve; none when it may stay as it is.
    pub(crate) text: Option<String>,
    /// The numbers that were replaced, by the answer's place; empty when nothing was.
    restore: Vec<Option<String>>,
    is_batch: bool,
    answered: bool,
}

/// Why a call can't have an answer under its own id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IllegalId;

/// What a call says of its id.
enum CallId<'a> {
    /// There is none: a notification.
    Absent,
    /// One that the library knows.
    Known,
    /// A number that it does not know, with its place in the text.
    Foreign(&'a str),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

/// Tells `null` from nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The id of one call. Two of them, or something else than an object, are no call.
fn id_of(call: &str) -> Result<CallId<'_>, IllegalId> {
    if !call.trim_start().starts_with('{') {
        return Err(IllegalId);
    }
    let envelope: Envelope<'_> = serde_json::from_str(call).map_err(|_| IllegalId)?;
    let Some(id) = envelope.id.map(RawValue::get) else { return Ok(CallId::Absent) };
    match id.as_bytes().first() {
        // A text with half of a surrogate pair is JSON by its grammar, and no text.
        Some(b'"') if serde_json::from_str::<String>(id).is_ok() => Ok(CallId::Known),
        Some(b'n') => Ok(CallId::Known),
        Some(b'-' | b'0'..=b'9') if id.parse::<u64>().is_ok() => Ok(CallId::Known),
        Some(b'-' | b'0'..=b'9') => Ok(CallId::Foreign(id)),
        _ => Err(IllegalId),
    }
}

/// Looks at the ids of a call or of a batch's calls. The text must be JSON; what is no call but for its id is for others to
/// find.
///
/// # Errors
/// For a single call whose id is none; a batch's entry like that is made one that is refused alone.
pub(crate) fn admit(text: &str) -> Result<Admitted, IllegalId> {
    let unchanged = |is_batch, answered| Admitted { text: None, restore: vec![], is_batch, answered };
    if !text.trim_start().starts_with('[') {
        return Ok(match id_of(text)? {
            CallId::Absent => unchanged(false, false),
            CallId::Known => unchanged(false, true),
            CallId::Foreign(id) => Admitted {
                text: Some(replaced(text, id, STAND_IN)),
                restore: vec![Some(id.to_string())],
                is_batch: false,
                answered: true,
            },
        });
    }
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(text) else { return Ok(unchanged(true, true)) };
    let (mut changed, mut calls, mut restore) = (false, vec![], vec![]);
    for entry in entries.iter().map(|entry| entry.get()) {
        match id_of(entry) {
            Ok(CallId::Absent) => calls.push(entry.to_string()),
            Ok(CallId::Known) => {
                calls.push(entry.to_string());
                restore.push(None);
            }
            Ok(CallId::Foreign(id)) => {
                changed = true;
                calls.push(replaced(entry, id, STAND_IN));
                restore.push(Some(id.to_string()));
            }
            Err(IllegalId) => {
                changed = true;
                calls.push(NO_CALL.to_string());
                restore.push(None);
            }
        }
    }
    let answered = !restore.is_empty() || calls.is_empty();
    if !changed {
        return Ok(unchanged(true, answered));
    }
    if restore.iter().all(Option::is_none) {
        restore.clear();
    }
    Ok(Admitted { text: Some(format!("[{}]", calls.join(","))), restore, is_batch: true, answered })
}

impl Admitted {
    /// Whether there is anything to answer; notifications have no answer.
    pub(crate) const fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether the answer must be changed.
    pub(crate) fn restores(&self) -> bool {
        self.restore.iter().any(Option::is_some)
    }

    /// Gives the answer the numbers back that were replaced. One that refuses the batch as a whole stays as it is.
    pub(crate) fn restored(&self, answer: &str) -> String {
        if !self.restores() {
            return answer.to_string();
        }
        let one = |answer: &str, number: &Option<String>| match (number, serde_json::from_str::<Envelope<'_>>(answer)) {
            (Some(number), Ok(Envelope { id: Some(id) })) if id.get() == STAND_IN => replaced(answer, id.get(), number),
            _ => answer.to_string(),
        };
        if !self.is_batch {
            return self.restore.first().map_or_else(|| answer.to_string(), |number| one(answer, number));
        }
        match serde_json::from_str::<Vec<&RawValue>>(answer) {
            Ok(answers) if answers.len() == self.restore.len() => {
                let all: Vec<String> = answers.iter().zip(&self.restore).map(|(a, n)| one(a.get(), n)).collect();
                format!("[{}]", all.join(","))
            }
            _ => answer.to_string(),
        }
    }
}

/// `text` with another word in the place of `part`, which is a piece of it.
fn replaced(text: &str, part: &str, with: &str) -> String {
    let from = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    match (text.get(..from), text.get(from.saturating_add(part.len())..)) {
        (Some(before), Some(after)) => format!("{before}{with}{after}"),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn call(id: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"chain_head","params":[]}}"#)
    }

    #[test]
    fn known_ids_pass_unchanged() {
        for id in ["0", "7", "18446744073709551615", "\"a\"", "\"-1\"", "null"] {
            let admitted = admit(&call(id)).unwrap();
            assert_eq!((admitted.text.as_deref(), admitted.is_answered()), (None, true), "{id}");
        }
    }

    #[test]
    fn other_numbers_come_back_digit_for_digit() {
        for id in ["-1", "1.5", "18446744073709551616", "1e3", "-0"] {
            let admitted = admit(&call(id)).unwrap();
            let served: Value = serde_json::from_str(admitted.text.as_deref().unwrap()).unwrap();
            assert_eq!((&served["id"], &served["method"]), (&json!("number"), &json!("chain_head")));
            let answer = admitted.restored(r#"{"jsonrpc":"2.0","id":"number","result":{"id":"number"}}"#);
            assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"id":"number"}}}}"#));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for id in ["\"\\ud800\"", "true", "false", "{}", "[1]", "1,\"id\":2"] {
            assert_eq!(admit(&call(id)), Err(IllegalId), "{id}");
        }
        for text in ["0", "\"x\"", "null"] {
            assert_eq!(admit(text), Err(IllegalId), "{text}");
        }
    }

    #[test]
    fn a_batch_keeps_its_order_and_its_entries() {
        let notification = r#"{"jsonrpc":"2.0","method":"chain_head"}"#;
        let text = format!("[{},{notification},{},[1],{}]", call("-1"), call("true"), call("3"));
        let admitted = admit(&text).unwrap();
        let served: Vec<Value> = serde_json::from_str(admitted.text.as_deref().unwrap()).unwrap();
        let ids: Vec<&Value> = served.iter().map(|entry| &entry["id"]).collect();
        assert_eq!(ids, [&json!("number"), &Value::Null, &Value::Null, &Value::Null, &json!(3)]);
        assert_eq!((&served[2], &served[3]), (&json!(0), &json!(0)));
        let answers = json!([{"id": "number"}, {"id": null}, {"id": null}, {"id": 3}]).to_string();
        let restored: Value = serde_json::from_str(&admitted.restored(&answers)).unwrap();
        assert_eq!(restored, json!([{"id": -1}, {"id": null}, {"id": null}, {"id": 3}]));
        // A refusal of the whole batch is no list.
        assert_eq!(admitted.restored(r#"{"id":null}"#), r#"{"id":null}"#);
    }

    #[test]
    fn notifications_have_no_answer() {
        let notification = r#"{"jsonrpc":"2.0","method":"chain_head"}"#;
        assert!(!admit(notification).unwrap().is_answered());
        assert!(!admit(&format!("[{notification},{notification}]")).unwrap().is_answered());
        assert!(admit(&format!("[{notification},{}]", call("1"))).unwrap().is_answered());
        // An empty batch is refused, and says so.
        assert!(admit("[]").unwrap().is_answered());
    }
}
