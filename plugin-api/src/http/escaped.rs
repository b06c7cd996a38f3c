//! Text in a page.

use std::fmt::{self, Write as _};

/// Text that stands in HTML, in an attribute too, and says there what it says: markup in it is none, and characters that could make a
/// name look like another (control characters, those that change the direction of writing) are shown as U+FFFD.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ if letter.is_control()
                    || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    f.write_char('\u{fffd}')?;
                }
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn text_says_what_it_says() {
        let text = "<a href=\"x\" id='y'>&\u{7}\u{202e}\u{2067}é";
        let page = "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;\u{fffd}\u{fffd}\u{fffd}é";
        assert_eq!(Escaped(text).to_string(), page);
    }
}
