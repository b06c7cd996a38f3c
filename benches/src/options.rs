//! How much is measured, from the command line that `cargo xtask bench` makes.

use std::time::Duration;

use crate::Result;

/// The most idle connections: nginx is given room for some more.
pub(crate) const HELD_MAX: usize = 16_000;

/// How much is measured.
pub(crate) struct Options {
    /// How often every server is measured for each row.
    pub(crate) rounds: usize,
    /// How long each load lasts; for what counts in turns or starts, how many.
    pub(crate) seconds: u64,
    /// How many idle connections are held.
    pub(crate) held: usize,
    /// A word that the rows to be measured have in their names.
    pub(crate) only: Option<String>,
}

impl Options {
    /// Reads `--rounds N --seconds N --held N --only WORD`, all of which may be left out.
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options { rounds: 7, seconds: 3, held: 10_000, only: None };
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("`{name}` wants a value after it"))?;
            match name.as_str() {
                "--rounds" => options.rounds = number(&name, &value)?,
                "--seconds" => options.seconds = number(&name, &value)?,
                "--held" => options.held = number(&name, &value)?,
                "--only" => options.only = Some(value),
                _ => return Err(format!("do not know what to do with `{name}`")),
            }
        }
        if options.held > HELD_MAX {
            return Err(format!("`--held` goes up to {HELD_MAX}"));
        }
        Ok(options)
    }

    /// How long each load lasts.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn number<N: std::str::FromStr + PartialOrd + From<u8>>(name: &str, value: &str) -> Result<N> {
    let number = value.parse().ok().filter(|it| *it >= N::from(1));
    number.ok_or_else(|| format!("`{name}` wants a number from 1 on, not `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: std::result::Result<(usize, u64, usize), &str>) {
        let options = Options::read(line.split_whitespace().map(str::to_owned));
        let found = options.map(|it| (it.rounds, it.seconds, it.held));
        assert_eq!(found, expected.map_err(str::to_owned), "{line}");
    }

    #[test]
    fn options_may_be_left_out() {
        check("", Ok((7, 3, 10_000)));
        check("--seconds 1 --only file --rounds 2", Ok((2, 1, 10_000)));
        check("--held 500", Ok((7, 3, 500)));
        check("--rounds", Err("`--rounds` wants a value after it"));
        check("--rounds 0", Err("`--rounds` wants a number from 1 on, not `0`"));
        check("--held 16001", Err("`--held` goes up to 16000"));
        check("--rows 3", Err("do not know what to do with `--rows`"));
    }
}
