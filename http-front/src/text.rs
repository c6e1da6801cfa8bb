//! Texts from outside: cut to their bounds where they are only kept for history.

/// Does it hold control characters?
#[must_use]
pub fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
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
}
