//! A value that must not be seen.

use std::fmt;

use zeroize::Zeroizing;

use super::guard::{Guard, stands};

/// Text that prints as `[redacted]`, is wiped on drop, and is read only through [`Secret::expose`], so that every read
/// can be found by its name. Not `Clone`, not `Serialize`.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Wraps what an operator wrote, without the blanks around it: they come from copying and from files, no provider's secret
    /// has them, and a secret that is kept with them proves nothing.
    pub fn written(text: &str) -> Self {
        Self::new(text.trim_matches(is_blank).to_owned())
    }

    /// The text itself. Only proof, sealing and rendering of a request to its own provider may ask.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// White space, and the characters without width that editors and web pages leave at the ends of a text.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}'..='\u{200d}' | '\u{2060}')
}

/// Secrets are read from documents only, so this is the one door of [`Secret::written`] that all of them pass.
impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <String as serde::Deserialize>::deserialize(deserializer).map(|text| Self::written(Zeroizing::new(text).as_str()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// Why a text is not fit to be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Empty or blank.
    Absent,
    /// Fewer characters than the provider's own secrets have.
    TooShort,
    /// What templates and examples leave behind.
    Placeholder,
}

const PLACEHOLDERS: [&str; 20] = [
    "changeme",
    "change-me",
    "change_me",
    "secret",
    "password",
    "placeholder",
    "example",
    "undefined",
    "null",
    "none",
    "todo",
    "xxx",
    "test",
    "your-secret",
    "your_secret",
    "your-signing-secret",
    "your_signing_secret",
    "dummy",
    "default",
    "redacted",
];

/// Judges whether `text` may be a secret of at least `chars_min` characters. Blank is absent: HMAC with an empty key
/// verifies happily, which is how peers were forged.
pub fn judge(text: &str, chars_min: usize) -> Result<(), Unfit> {
    let trimmed = text.trim_matches(is_blank);
    if trimmed.is_empty() && stands(Guard::SecretBlank) {
        return Err(Unfit::Absent);
    }
    let lower = trimmed.to_ascii_lowercase();
    let first = lower.chars().next();
    let templated = lower.contains("${") || lower.contains("{{") || (lower.starts_with('<') && lower.ends_with('>'));
    let left_behind = PLACEHOLDERS.contains(&lower.as_str()) || PLACEHOLDERS.iter().any(|p| lower.trim_matches(['[', ']', '.', '!']) == *p);
    if (templated || left_behind) && stands(Guard::SecretPlaceholder) {
        return Err(Unfit::Placeholder);
    }
    if trimmed.chars().count() < chars_min && stands(Guard::SecretWeak) {
        return Err(Unfit::TooShort);
    }
    // One character is Telegram's shortest legal secret; a run of one character is what a form was filled in with.
    if lower.chars().count() > 1 && lower.chars().all(|c| Some(c) == first) && stands(Guard::SecretRun) {
        return Err(Unfit::Placeholder);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("xoxb-canary".into())), "[redacted]");
    }

    #[test]
    fn what_is_read_of_a_document_has_no_blanks_around_it() {
        for text in
            ["8f742231 b10e", " 8f742231 b10e", "8f742231 b10e\r\n", "\u{feff}8f742231 b10e\u{200b}", "\t\u{a0}8f742231 b10e\u{2028}"]
        {
            let read: Secret = serde_json::from_value(serde_json::json!(text)).unwrap();
            assert_eq!(read.expose(), "8f742231 b10e", "{text:?}");
        }
        assert_eq!(judge("\u{feff}\u{200b} ", 8), Err(Unfit::Absent));
    }

    #[test]
    fn blank_short_and_placeholder_are_told_apart() {
        assert_eq!(judge("", 8), Err(Unfit::Absent));
        assert_eq!(judge(" \t\n", 8), Err(Unfit::Absent));
        assert_eq!(judge("changeme", 8), Err(Unfit::Placeholder));
        assert_eq!(judge("${SLACK_SECRET}", 8), Err(Unfit::Placeholder));
        assert_eq!(judge("undefined", 8), Err(Unfit::Placeholder));
        assert_eq!(judge("xxxxxxxxxxxxxxxx", 8), Err(Unfit::Placeholder));
        assert_eq!(judge("abc", 8), Err(Unfit::TooShort));
        assert_eq!(judge("8f742231b10e8888", 8), Ok(()));
    }
}
