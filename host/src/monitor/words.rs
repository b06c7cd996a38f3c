//! A typed line as words, with the quotes of a shell: `load a --set "title=Two words"`.

/// Why a line is not words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclosed(pub char);

/// Splits at blanks. In `'…'` everything stands for itself; in `"…"` and outside, a backslash takes the next character as it is.
pub fn split(line: &str) -> Result<Vec<String>, Unclosed> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(Unclosed('\\'))?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), Unclosed> {
    loop {
        match chars.next().ok_or(Unclosed(quote))? {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => word.push(chars.next().ok_or(Unclosed(quote))?),
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check =
            |line: &str, expected: &[&str]| assert_eq!(split(line).unwrap(), expected, "{line}");
        check("", &[]);
        check("  plugins  ", &["plugins"]);
        check("a  b\tc", &["a", "b", "c"]);
        check("--set \"a=b c\"", &["--set", "a=b c"]);
        check("a='b \"c\\'d", &["a=b \"c\\d"]);
        check(r#""a\"b""#, &["a\"b"]);
        check("''", &[""]);
        check(r"a\ b", &["a b"]);
        assert_eq!(split("'a"), Err(Unclosed('\'')));
        assert_eq!(split("\"a\\"), Err(Unclosed('"')));
        assert_eq!(split("a\\"), Err(Unclosed('\\')));
    }
}
