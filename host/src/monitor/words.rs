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

/// The words of a line that is being typed, and where the last of them begins; that one is empty if it is not begun. `None` where it
/// stands in quotes.
pub fn partial(line: &str) -> Option<(Vec<String>, usize)> {
    let start = line
        .rfind(char::is_whitespace)
        .map_or(0, |at| at + line[at..].chars().next().map_or(0, char::len_utf8));
    let (head, last) = line.split_at(start);
    if last.contains(['\'', '"', '\\']) || head.ends_with("\\ ") {
        return None;
    }
    let mut words = split(head).ok()?;
    words.push(last.to_owned());
    Some((words, start))
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
    fn lines_that_are_being_typed() {
        let check = |line: &str, expected: Option<(&[&str], usize)>| {
            let found = partial(line);
            let found = found.as_ref().map(|(words, start)| {
                (words.iter().map(String::as_str).collect::<Vec<_>>(), *start)
            });
            assert_eq!(found, expected.map(|(words, start)| (words.to_vec(), start)), "{line}");
        };
        check("", Some((&[""], 0)));
        check("lo", Some((&["lo"], 0)));
        check("log ", Some((&["log", ""], 4)));
        check("load 'a b' --li", Some((&["load", "a b", "--li"], 11)));
        check("load\u{3000}x", Some((&["load", "x"], 7)));
        check("load 'a b", None);
        check("load 'a", None);
        check("load a\\ ", None);
    }

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
