//! The caller's trace, from W3C's `traceparent`: what cannot be read is as good as absent.

use http::{HeaderMap, HeaderValue};

/// The id of a trace: 32 hexadecimal digits, not all 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The trace a request belongs to.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all("traceparent").iter();
        // Two of them contradict each other.
        let text = given.next().filter(|_| given.next().is_none())?;
        Self::parse(text.to_str().ok()?.trim())
    }

    /// `version-trace-parent-flags`; versions to come may have more behind that.
    fn parse(text: &str) -> Option<Self> {
        let (version, rest) = text.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (parent, rest) = rest.split_once('-')?;
        let flags = match version {
            "00" => rest,
            _ => rest.split('-').next()?,
        };
        let known = is_hex(version, 2) && version != "ff";
        let named = |id: &str| id.bytes().any(|b| b != b'0');
        let whole = is_hex(trace, 32) && named(trace) && is_hex(parent, 16) && named(parent);
        let id = trace.as_bytes().try_into().ok()?;
        (known && whole && is_hex(flags, 2)).then_some(Self(id))
    }

    /// Its digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// For an answer.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        // Hexadecimal digits always fit a header.
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == digits && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_as_w3c_says_and_nonsense_is_ignored() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = |text: &str| TraceId::parse(text).map(|id| id.as_str().to_owned());
        let usual = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(read(&usual).as_deref(), Some(TRACE));
        let later = format!("cc-{TRACE}-00f067aa0ba902b7-01-more-of-it");
        assert_eq!(read(&later).as_deref(), Some(TRACE));
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-00f067aa0ba902b-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-0x"),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn two_traces_are_none() {
        let mut headers = HeaderMap::new();
        let one = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.append("traceparent", HeaderValue::from_static(one));
        assert!(TraceId::of(&headers).is_some());
        headers.append("traceparent", HeaderValue::from_static(one));
        assert!(TraceId::of(&headers).is_none());
    }
}
