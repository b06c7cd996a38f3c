//! Words in messages: the known one that a misspelt one is nearest to, lists, quotes.

/// The candidate that `word` is probably meant to be, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A cap, as the distance takes time in proportion to both lengths and the word may come from anywhere.
    if word.len() > 64 {
        return None;
    }
    let distance = |candidate: &str| {
        strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase())
    };
    let best = candidates.into_iter().map(|candidate| (distance(candidate), candidate)).min()?;
    (best.0 <= word.chars().count().max(3) / 3).then_some(best.1)
}

/// `did you mean ...?` where there is a near word, else all the words there are.
pub fn suggest(word: &str, candidates: &[&str], what: &str) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if candidates.is_empty() => format!("there are no {what}"),
        None => format!("the {what} are {}", list(candidates)),
    }
}

/// Words as a list for a sentence, cut after the first dozen.
pub fn list(words: &[&str]) -> String {
    let mut shown: Vec<String> = words.iter().take(12).map(|word| format!("`{word}`")).collect();
    if words.len() > shown.len() {
        shown.push(format!("{} more", words.len() - shown.len()));
    }
    shown.join(", ")
}

/// Text as a quoted string on one line, as TOML and a log line show it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words() {
        let words = ["listen", "library", "attach", "order"];
        let check = |word, expected| assert_eq!(nearest(word, words), expected, "{word}");
        check("listne", Some("listen"));
        check("Listen", Some("listen"));
        check("libary", Some("library"));
        check("odrer", Some("order"));
        check("colour", None);
        check("", None);
        check(&"listen".repeat(20), None);
    }

    #[test]
    fn quoted_text_stays_on_its_line() {
        assert_eq!(quote("a\"b\\\n\u{1b}ä"), r#""a\"b\\\n\u001bä""#);
    }

    #[test]
    fn without_a_near_word_all_are_named() {
        assert_eq!(suggest("zzz", &["a", "b"], "keys"), "the keys are `a`, `b`");
        assert_eq!(suggest("zzz", &[], "keys"), "there are no keys");
        assert!(list(&["x"; 20]).ends_with("8 more"));
    }
}
