//! What is put into a field, by what the field takes, and what must come of it.

#![allow(
    dead_code,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 4xx in the envelope, and nothing has changed.
    Refused,
    /// A decision with 200 that blocks, and no money has moved.
    Blocked,
    /// 2xx.
    Taken,
}
use Outcome::{Blocked, Refused, Taken};

/// What a field takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A text of at most so many bytes, without control characters, not empty.
    Text(usize),
    /// The same, and any text will do: it is looked up and may be unknown.
    Lookup(usize),
    /// A text of at most so many bytes, without control characters; an empty one is none.
    Note(usize),
    /// A text that is not tried here: only what is none.
    Tried,
    /// The organization's own id, or the call is blocked.
    Own,
    /// Any text; a long one is cut or hashed.
    Free,
    /// A text whose bounds are a matter of the decision: outside of them, the call is blocked.
    Weighed(usize),
    /// One of a few words.
    Word(&'static str),
    /// An id of something of the organization.
    Id,
    /// Cents, from 0 to a bound; null is no cap.
    Cents,
    /// A whole number within bounds.
    Whole(i64, i64),
    /// A count of tokens in a question.
    Count,
    /// A count of tokens in a report: Python's words for no number are nothing.
    Reported,
    /// Cents of a chain: outside of the bounds, the call is blocked.
    ChainCents,
    /// Yes or no.
    Flag,
    /// A list of texts that are blocked when they are bad.
    Tools,
    /// A list of patterns.
    Patterns,
    /// A list of words.
    Words,
    /// An object.
    Object,
    /// A list of anything: what is bad in it is named and passed over.
    Events,
    /// A list of objects that are refused when one is bad.
    Objects,
    /// A list of objects that are refused when one is bad; there may be none.
    Drafts,
    /// A point in time that lies ahead.
    Time,
    /// Any point in time.
    Moment,
    /// Whatever it is, the report counts.
    Any,
}

const LARGE: [&str; 6] = [
    "1.5",
    "1e999",
    "9223372036854775808",
    "-9223372036854775809",
    "NaN",
    "Infinity",
];
const NO_TEXT: [&str; 7] = ["7", "-1", "1.5", "true", "[]", "{}", r#"[["a"]]"#];
const NO_NUMBER: [&str; 6] = [r#""3""#, r#""""#, "true", "[]", "{}", "[1]"];

/// A JSON text of `n` bytes.
fn text(n: usize) -> String {
    format!("\"{}\"", "x".repeat(n))
}

/// Nested a thousand deep.
pub fn deep() -> String {
    format!("{}{}", "[".repeat(1000), "]".repeat(1000))
}

impl Kind {
    /// What is put into it, without null.
    pub fn probes(self) -> Vec<(String, Outcome)> {
        let all = |values: &[&str], outcome| -> Vec<(String, Outcome)> {
            values.iter().map(|v| ((*v).to_owned(), outcome)).collect()
        };
        let bad = |values: &[&str]| all(values, Refused);
        let control = r#""a\u0000b""#;
        let lone = r#""\ud800""#;
        let mut probes = match self {
            Self::Text(most) => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[r#""""#, control, lone]));
                probes.extend([(text(most + 1), Refused), (text(most), Taken)]);
                probes
            }
            Self::Lookup(most) => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[r#""""#, lone]));
                probes.extend([(text(most + 1), Refused), (text(most), Taken)]);
                probes
            }
            Self::Note(most) => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[control, lone]));
                probes.extend([(text(most + 1), Refused), (text(most), Taken)]);
                probes.push((text(0), Taken));
                probes
            }
            Self::Tried => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[r#""""#, lone]));
                probes.push((text(10_000), Refused));
                probes
            }
            Self::Own => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(all(&[r#""""#, r#""x""#, control], Blocked));
                probes.push((text(10_000), Blocked));
                probes
            }
            Self::Free => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[lone]));
                probes.extend([(text(100_000), Taken), (control.to_owned(), Taken)]);
                probes
            }
            Self::Weighed(most) => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[lone]));
                probes.extend(all(&[control], Blocked));
                probes.extend([(text(most + 1), Blocked), (text(most), Taken)]);
                probes
            }
            Self::Word(good) => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[r#""nonsense""#, r#""""#, control]));
                probes.extend([
                    (text(10_000), Refused),
                    (format!("{{\"{good}\":1}}"), Refused),
                ]);
                probes.push((format!("\"{good}\""), Taken));
                probes
            }
            Self::Id => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[
                    r#""""#,
                    r#""nonsense""#,
                    control,
                    lone,
                    r#""01a20a99-0000-7000-8000-00000000dead""#,
                    r#""01A20A9900007000800000000000DEAD""#,
                ]));
                probes.push((text(10_000), Refused));
                probes
            }
            Self::Cents => {
                let mut probes = bad(&NO_NUMBER);
                probes.extend(bad(&LARGE));
                probes.extend(bad(&["-1", "900000000001", "9223372036854775807"]));
                probes.extend(all(&["0", "900000000000"], Taken));
                probes
            }
            Self::Whole(least, most) => {
                let mut probes = bad(&NO_NUMBER);
                probes.extend(bad(&LARGE));
                let outside = [least.checked_sub(1), most.checked_add(1)];
                probes.extend(outside.iter().flatten().map(|n| (n.to_string(), Refused)));
                probes.extend([least, most].map(|n| (n.to_string(), Taken)));
                probes
            }
            Self::Count | Self::Reported => {
                let mut probes = bad(&NO_NUMBER);
                let (words, numbers) = (&LARGE[4..], &LARGE[1..4]);
                let fate = if matches!(self, Self::Count) {
                    Refused
                } else {
                    Taken
                };
                probes.extend(all(words, fate));
                probes.extend(bad(numbers));
                probes.extend(bad(&["-1", "1e300", "1000000000001"]));
                probes.extend(all(&["0", "3.0", "1000000000000"], Taken));
                probes
            }
            Self::ChainCents => {
                let mut probes = bad(&NO_NUMBER);
                probes.extend(bad(&LARGE));
                probes.extend(all(&["-1", "900000000001"], Blocked));
                probes.extend(all(&["900000000000"], Taken));
                probes
            }
            Self::Flag => {
                let mut probes = bad(&["1", "0", r#""true""#, "[]", "{}"]);
                probes.extend(all(&["true", "false"], Taken));
                probes
            }
            Self::Tools => {
                let mut probes = bad(&["7", r#""x""#, "{}", "true", "[7]", "[null]", "[[]]"]);
                let many = format!("[{}]", vec![r#""x""#; 129].join(","));
                probes.extend([
                    (format!("[{}]", text(257)), Blocked),
                    (format!("[{}]", text(256)), Taken),
                    (many, Blocked),
                    (format!("[{control}]"), Blocked),
                ]);
                probes
            }
            Self::Patterns => {
                let mut probes = bad(&["7", r#""x""#, "{}", "true", "[7]", "[null]", r#"[""]"#]);
                let many = format!("[{}]", vec![r#""x""#; 257].join(","));
                probes.extend([
                    (format!("[{}]", text(4097)), Refused),
                    (format!("[{}]", text(4096)), Taken),
                    (many, Refused),
                ]);
                probes
            }
            Self::Words => {
                let mut probes = bad(&["7", r#""gate""#, "{}", "true", "[7]", "[null]", "[]"]);
                probes.extend(bad(&[r#"["nonsense"]"#]));
                probes.extend(all(&[r#"["gate","*"]"#], Taken));
                probes
            }
            Self::Object => bad(&["7", r#""x""#, "[]", "true", r#"{"no_such":1}"#]),
            Self::Events => {
                let mut probes = bad(&["7", r#""x""#, "{}", "true", "null"]);
                probes.extend(all(&["[]", "[7,null,[]]"], Taken));
                probes
            }
            Self::Objects => bad(&[
                "7", r#""x""#, "{}", "true", "[]", "[7]", "[null]", "[[]]", "[{}]",
            ]),
            Self::Drafts => {
                let mut probes =
                    bad(&["7", r#""x""#, "{}", "true", "[7]", "[null]", "[[]]", "[{}]"]);
                probes.push(("[]".to_owned(), Taken));
                probes
            }
            Self::Moment => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[r#""tomorrow""#, r#""2030-02-30T00:00:00Z""#]));
                probes.extend(all(&[r#""2001-01-01T00:00:00Z""#], Taken));
                probes
            }
            Self::Time => {
                let mut probes = bad(&NO_TEXT);
                probes.extend(bad(&[
                    r#""tomorrow""#,
                    r#""2030-02-30T00:00:00Z""#,
                    r#""2001-01-01T00:00:00Z""#,
                    r#""-000001-01-01T00:00:00Z""#,
                ]));
                probes.extend(all(&[r#""2100-01-01T00:00:00Z""#], Taken));
                probes
            }
            Self::Any => {
                let mut probes = all(&NO_TEXT, Taken);
                probes.extend(all(&LARGE, Taken));
                probes.extend(all(&[r#""""#, control, lone], Taken));
                probes.push((text(100_000), Taken));
                probes
            }
        };
        let nested = match self {
            Self::Any | Self::Events => Taken,
            _ => Refused,
        };
        probes.push((deep(), nested));
        probes
    }
}
