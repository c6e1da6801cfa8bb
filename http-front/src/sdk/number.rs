//! Values as clients send them: counts that must be right, and descriptions that need not be.

use serde::Deserialize as _;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Reads a count: a number not below 0, null as 0.
pub fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Count)
}

/// Reads an optional count.
pub fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Maybe;
    impl<'de> Visitor<'de> for Maybe {
        type Value = Option<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            Count.expecting(f)
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            count(d).map(Some)
        }
    }
    deserializer.deserialize_option(Maybe)
}

struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 0 to {}", engine::limits::TOKENS)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        if value <= engine::limits::TOKENS {
            return Ok(value);
        }
        Err(E::custom(format_args!(
            "too large, at most {} is taken",
            engine::limits::TOKENS
        )))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value)
            .map_err(|_| E::custom("may not be negative"))
            .and_then(|v| self.visit_u64(v))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        // Exact for every count that fits the bound.
        if value >= 0.0 && value <= engine::limits::TOKENS as f64 {
            return Ok(value.ceil() as u64);
        }
        Err(E::custom(format_args!(
            "must be from 0 to {}",
            engine::limits::TOKENS
        )))
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_none<E: Error>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        count(deserializer)
    }
}

/// Reads a text; anything else is as good as absent.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    // Not read further than its kind: what is inside may be too deep, too large or no character.
    let raw = <&RawValue>::deserialize(deserializer)?.get();
    Ok(match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).ok(),
        Some(b'-' | b'0'..=b'9') => Some(raw.to_owned()),
        _ => None,
    })
}

/// Reads a count; anything else is as good as absent.
pub fn any_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(<&RawValue>::deserialize(deserializer)?.get().parse().ok())
}

/// Replaces the bare words `NaN`, `Infinity` and `-Infinity`, which Python writes and JSON does not
/// know, by `null`. `None` if there is none outside strings.
#[must_use]
pub fn without_nan(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    let mut in_string = false;
    let mut found = false;
    while let Some((byte, tail)) = rest.split_first() {
        if in_string {
            out.push(*byte);
            if *byte == b'\\' {
                if let Some((escaped, tail)) = tail.split_first() {
                    out.push(*escaped);
                    rest = tail;
                    continue;
                }
            } else if *byte == b'"' {
                in_string = false;
            }
            rest = tail;
            continue;
        }
        let word: Option<&[u8]> = [&b"NaN"[..], b"Infinity", b"-Infinity"]
            .into_iter()
            .find(|word| rest.starts_with(word));
        if let Some(word) = word {
            out.extend_from_slice(b"null");
            rest = rest.get(word.len()..).unwrap_or_default();
            found = true;
            continue;
        }
        in_string = *byte == b'"';
        out.push(*byte);
        rest = tail;
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Row {
        #[serde(default, deserialize_with = "count")]
        n: u64,
        #[serde(default, deserialize_with = "maybe")]
        m: Option<u64>,
    }

    #[test]
    fn counts_are_integers_integral_floats_or_null() {
        let row = |text: &str| serde_json::from_str::<Row>(text).map(|row| (row.n, row.m));
        assert_eq!(row(r#"{"n":3,"m":4}"#).unwrap(), (3, Some(4)));
        assert_eq!(row(r#"{"n":3.0,"m":null}"#).unwrap(), (3, None));
        assert_eq!(row(r#"{"n":null}"#).unwrap(), (0, None));
        assert_eq!(row("{}").unwrap(), (0, None));
        for bad in [
            r#"{"n":-1}"#,
            r#"{"n":"3"}"#,
            r#"{"n":1e300}"#,
            r#"{"n":18446744073709551615}"#,
        ] {
            assert!(row(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bare_nan_and_infinity_are_null_outside_strings() {
        let fixed = without_nan(br#"{"a":NaN,"b":[Infinity,-Infinity],"c":"NaN \" NaN"}"#).unwrap();
        assert_eq!(fixed, br#"{"a":null,"b":[null,null],"c":"NaN \" NaN"}"#);
        assert_eq!(without_nan(br#"{"a":"NaN"}"#), None);
    }
}
