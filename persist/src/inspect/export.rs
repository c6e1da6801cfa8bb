//! Records as JSON, one object per line, for whoever wants to read the log with other tools. What is
//! secret, or could be tried against a secret, is left out (see `redact`).

use super::{redact, undisturbed};
use crate::disk::Disk;
use crate::record::Record;
use crate::units::Lsn;
use crate::{Error, Result, reader};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;

/// Writes the records `from..=until`, those that are there, each as
/// `{"lsn": 7, "record": {…}, "type": "Charged"}` and a newline. Returns how many.
///
/// # Errors
/// [`Error::Gone`] if the log begins behind `from`; damage on the way, with all before it written.
pub fn export(wal: &dyn Disk, from: Lsn, until: Lsn, out: &mut impl Write) -> Result<u64> {
    let mut next = Lsn(from.0.max(1));
    let first = next;
    undisturbed(|| {
        let before = Lsn(next.0 - 1);
        reader::read(wal, before, until, &mut |lsn, bytes| {
            let line = line(lsn, bytes)?;
            out.write_all(line.as_bytes())
                .map_err(|e| Error::io("write", "the export", e))?;
            next = lsn.next();
            Ok(())
        })
    })?;
    Ok(next.0 - first.0)
}

fn line(lsn: Lsn, bytes: &[u8]) -> Result<String> {
    let undecodable = |what: String| Error::Undecodable { lsn, what };
    let record: Record<'_> = postcard::from_bytes(bytes).map_err(|e| undecodable(e.to_string()))?;
    let (kind, record) = match to_json(&record).map_err(|e| undecodable(e.to_string()))? {
        // An enum's variant with its contents.
        Value::Object(variant) => variant.into_iter().next().unwrap_or_default(),
        Value::String(variant) => (variant, Value::Null),
        other => (String::new(), other),
    };
    let object = json!({ "lsn": lsn.0, "type": kind, "record": record });
    Ok(format!("{object}\n"))
}

/// Anything as JSON, redacted: ids as UUIDs, other 128-bit numbers as 32 hex digits (JSON's readers
/// round large numbers), bytes as hex.
pub fn to_json(value: &impl Serialize) -> std::result::Result<Value, serde_json::Error> {
    value.serialize(redact::ToJson)
}
