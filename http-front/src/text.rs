//! Texts from outside: cut to their bounds where they are only kept for history, refused beyond them
//! where they decide something.

use crate::error::{ApiError, ApiResult};
use engine::limits;

/// Does it hold control characters?
#[must_use]
pub fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Does it hold another text, given in lower case, in any case?
#[must_use]
pub fn holds(text: &str, lower: &str) -> bool {
    text.to_lowercase().contains(lower)
}

/// Is it as long as an id may be? One that was cut would be somebody else's.
#[must_use]
pub const fn fits_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= limits::ID_BYTES
}

/// An id in a field of that name.
pub fn id(field: &'static str, text: &str) -> ApiResult<()> {
    if fits_id(text) {
        return Ok(());
    }
    let most = limits::ID_BYTES;
    let why = format!("{field} takes 1 to {most} bytes");
    Err(ApiError::field(field, why))
}

/// The reason a person gives, without the space around it; `least` bytes of it.
pub fn reason(text: &str, least: usize) -> ApiResult<&str> {
    let (text, most) = (text.trim(), limits::REASON_BYTES);
    if (least..=most).contains(&text.len()) && !has_control(text) {
        return Ok(text);
    }
    let why = format!("reason takes {least} to {most} bytes and no control characters");
    Err(ApiError::field("reason", why))
}

/// At most `bytes` bytes of a text, whole characters.
#[must_use]
pub fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let mut end = bytes;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(super::cut("aéb".to_owned(), 2), "a");
        assert_eq!(super::cut("aéb".to_owned(), 3), "aé");
        assert_eq!(super::cut("abc".to_owned(), 9), "abc");
    }

    #[test]
    fn an_id_and_a_reason_have_their_bounds() {
        let long = "x".repeat(10_000);
        assert!(super::id("chain_id", "c").is_ok());
        for id in ["", &*long] {
            assert!(super::id("chain_id", id).is_err());
        }
        assert_eq!(super::reason(" why ", 1).ok(), Some("why"));
        assert_eq!(super::reason("  ", 0).ok(), Some(""));
        for (reason, least) in [(" ", 1), ("a\u{7}b", 0), (&*long, 0)] {
            assert!(super::reason(reason, least).is_err(), "{reason}");
        }
    }
}
