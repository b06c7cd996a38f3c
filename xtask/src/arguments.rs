//! The words after `cargo xtask`, taken one by one; what is left over is an error.

use std::{error::Error, fmt};

use crate::Result;

/// The words not taken yet.
pub(crate) struct Arguments {
    words: Vec<String>,
}

/// A command line that cannot be understood: exit status 2.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl Arguments {
    pub(crate) fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    /// Takes `--name`; true if it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| word != name);
        self.words.len() < before
    }

    /// Takes `--name VALUE` or `--name=VALUE`.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>> {
        let with_value = format!("{name}=");
        let Some(at) =
            self.words.iter().position(|word| word == name || word.starts_with(&with_value))
        else {
            return Ok(None);
        };
        let word = self.words.remove(at);
        if let Some(value) = word.strip_prefix(&with_value) {
            return Ok(Some(value.to_owned()));
        }
        if at == self.words.len() {
            return Err(Usage::of(format!("`{name}` wants a value after it")));
        }
        Ok(Some(self.words.remove(at)))
    }

    /// Takes the first word that is not an option.
    pub(crate) fn positional(&mut self) -> Option<String> {
        let at = self.words.iter().position(|word| !word.starts_with('-'))?;
        Some(self.words.remove(at))
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<()> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(Usage::of(format!(
                "do not know what to do with `{word}`; `cargo xtask help` lists what there is"
            ))),
        }
    }
}

impl Usage {
    pub(crate) fn of(sentence: String) -> Box<dyn Error> {
        Box::new(Self(sentence))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn options_are_taken_in_any_order() {
        let mut given = arguments("--debug name --profile fast --tree=out");
        assert_eq!(given.option("--profile").unwrap().as_deref(), Some("fast"));
        assert_eq!(given.option("--tree").unwrap().as_deref(), Some("out"));
        assert!(given.flag("--debug"));
        assert!(!given.flag("--debug"));
        assert_eq!(given.positional().as_deref(), Some("name"));
        given.finish().unwrap();
    }

    #[test]
    fn what_is_left_over_is_refused() {
        let error = arguments("--depug").finish().unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("--depug"));
        assert!(arguments("--profile").option("--profile").is_err());
    }
}
