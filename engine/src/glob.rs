//! Patterns of tool and model names: `*` stands for anything, `|` between alternatives, everything
//! else for itself, in any case. `x.*` also matches the bare `x`.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    alternatives: Vec<Alternative>,
    text: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Alternative {
    /// The literal pieces between stars, lower case. One piece: no star.
    pieces: Vec<Box<str>>,
    /// `x` of `x.*`.
    bare: Option<Box<str>>,
}

/// Why a pattern is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Longer than [`crate::limits::PATTERN_BYTES`].
    #[error("a pattern may have {} bytes", crate::limits::PATTERN_BYTES)]
    TooLong,
    /// Control characters or an empty alternative.
    #[error("a pattern may not be empty, have an empty alternative, or hold control characters")]
    Invalid,
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.len() > crate::limits::PATTERN_BYTES {
            return Err(BadPattern::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(BadPattern::Invalid);
        }
        let alternatives = text
            .split('|')
            .map(|part| {
                let part = part.trim().to_lowercase();
                if part.is_empty() {
                    return Err(BadPattern::Invalid);
                }
                let bare = part
                    .strip_suffix(".*")
                    .filter(|x| !x.is_empty() && !x.contains('*'));
                Ok(Alternative {
                    bare: bare.map(Into::into),
                    pieces: part.split('*').map(Into::into).collect(),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            alternatives,
            text: text.into(),
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many patterns it is: alternatives counted singly.
    #[must_use]
    pub const fn alternatives(&self) -> usize {
        self.alternatives.len()
    }

    /// Does a name, given in lower case, match?
    #[must_use]
    pub fn matches(&self, lower: &str) -> bool {
        self.alternatives.iter().any(|one| one.matches(lower))
    }
}

impl Alternative {
    fn matches(&self, name: &str) -> bool {
        if self.bare.as_deref() == Some(name) {
            return true;
        }
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else {
            return false;
        };
        if self.pieces.len() == 1 {
            return name == &**first;
        }
        let Some(mut rest) = name.strip_prefix(&**first) else {
            return false;
        };
        for piece in self.pieces.iter().take(self.pieces.len() - 1).skip(1) {
            match rest.find(&**piece) {
                Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).unwrap().matches(&name.to_lowercase())
    }

    #[test]
    fn a_star_stands_for_anything_and_a_dot_for_itself() {
        assert!(matches("bash", "bash") && !matches("bash", "bash_run"));
        for name in ["bash", "bash_run", "bash.foo"] {
            assert!(matches("bash*", name), "{name}");
        }
        assert!(matches("bash.*", "bash") && matches("bash.*", "bash.foo.bar"));
        assert!(!matches("bash.*", "bash_run"));
        assert!(matches("*.drop_*", "db.drop_table") && !matches("*.drop_*", "db.dropped"));
        assert!(matches("*", "anything") && matches("*", ""));
        assert!(matches("a*b*c", "aXbYc") && !matches("a*b*c", "acb"));
        assert!(!matches("ab*ba", "aba"));
        assert!(matches("send_email | db.*", "DB.write"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert_eq!(Glob::new(""), Err(BadPattern::Invalid));
        assert_eq!(Glob::new("a||b"), Err(BadPattern::Invalid));
        assert_eq!(Glob::new("a\nb"), Err(BadPattern::Invalid));
        assert_eq!(Glob::new(&"x".repeat(4097)), Err(BadPattern::TooLong));
    }
}
