//! A monitor command as data: its name, arguments and role, of which parser, usage and help are made.

use std::{os::fd::RawFd, path::PathBuf, rc::Rc};

use serde::Serialize;

use crate::{
    config::words,
    log::Log,
    monitor::{
        control::{Control, Later, Refusal},
        output::{Gone, Output},
    },
};

/// A command.
pub struct Command {
    /// One word or two.
    pub name: &'static str,
    /// What may follow.
    pub arguments: &'static [Argument],
    /// One line for the list.
    pub summary: &'static str,
    /// Who may use it.
    pub role: Role,
    /// Whether it changes something; then it goes on when its client leaves.
    pub changes: bool,
    /// What it does.
    pub run: fn(Call) -> Later<'static, Result<(), Failure>>,
}

/// One argument.
pub struct Argument {
    /// How it is written.
    pub form: Form,
    /// Its name; of an option, without the dashes.
    pub name: &'static str,
    /// What it means, in a few words.
    pub doc: &'static str,
}

/// How an argument is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `NAME`
    Required,
    /// `[NAME]`
    Optional,
    /// `[NAME]…`
    Rest,
    /// `[--name]`
    Flag,
    /// `[--name VALUE]`
    Value(&'static str),
    /// `[--name VALUE]…`
    Values(&'static str),
}

/// Who may use a command; each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May see.
    Viewer,
    /// May load, unload, upgrade and cut.
    Operator,
    /// May change the configuration and stop the host.
    Admin,
}

/// One use of a command.
pub struct Call {
    /// What it acts on.
    pub control: Rc<dyn Control>,
    /// The log of this process.
    pub log: Log,
    /// What was typed behind the name.
    pub arguments: Arguments,
    /// Whether the answer is wanted as JSON.
    pub json: bool,
    /// How many columns the reader has.
    pub width: usize,
    /// The folder in which the command was typed.
    pub folder: Option<PathBuf>,
    /// Where the answer goes.
    pub out: Output,
    /// The session itself, for the command that ends with another image of the host.
    pub session: Option<RawFd>,
}

/// Arguments by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    values: Vec<(&'static str, String)>,
}

/// Why a command ended without success.
#[derive(Debug)]
pub enum Failure {
    /// It was refused, or failed; exit status 1.
    Refused(String),
    /// Its answer has said so already; exit status 1.
    Reported,
    /// It was not written as it has to be; exit status 2.
    Usage(String),
    /// Nobody reads the answer.
    Gone,
}

impl Command {
    /// How it is written.
    pub fn usage(&self) -> String {
        let arguments = self.arguments.iter().map(Argument::usage);
        std::iter::once(self.name.to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
    }

    /// Reads the words behind the name.
    pub fn parse(&self, words: &[String]) -> Result<Arguments, Failure> {
        let usage = |message: String| Failure::Usage(format!("{message}\nusage: {}", self.usage()));
        let mut arguments = Arguments::default();
        let mut places = self.arguments.iter().filter(|argument| !argument.is_option());
        let mut place = places.next();
        let (mut words, mut options) = (words.iter(), true);
        while let Some(word) = words.next() {
            if options && word == "--" {
                options = false;
            } else if let Some(option) = word.strip_prefix("--").filter(|_| options) {
                self.option(option, &mut words, &mut arguments).map_err(usage)?;
            } else if let Some(argument) = place {
                arguments.values.push((argument.name, word.clone()));
                place = if argument.form == Form::Rest { place } else { places.next() };
            } else {
                return Err(usage(format!("`{}` does not take {}", self.name, words::quote(word))));
            }
        }
        match place {
            Some(Argument { form: Form::Required, name, .. }) => {
                Err(usage(format!("{name} is missing")))
            }
            _ => Ok(arguments),
        }
    }

    fn option<'a>(
        &self,
        option: &str,
        words: &mut impl Iterator<Item = &'a String>,
        arguments: &mut Arguments,
    ) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let known = || self.arguments.iter().filter(|argument| argument.is_option());
        let Some(argument) = known().find(|argument| argument.name == name) else {
            let names: Vec<&str> = known().map(|argument| argument.name).collect();
            let near = words::nearest(name, names).map(|near| format!("; did you mean --{near}?"));
            return Err(format!("unknown option --{name}{}", near.unwrap_or_default()));
        };
        let value = match (argument.form, value) {
            (Form::Flag, Some(_)) => return Err(format!("--{name} takes no value")),
            (Form::Flag, None) => String::new(),
            (_, Some(value)) => value,
            (_, None) => words.next().cloned().ok_or_else(|| format!("--{name} needs a value"))?,
        };
        if !matches!(argument.form, Form::Values(_)) && arguments.get(name).is_some() {
            return Err(format!("--{name} is given twice"));
        }
        arguments.values.push((argument.name, value));
        Ok(())
    }
}

impl Argument {
    /// How it is written, optional ones in brackets.
    pub fn usage(&self) -> String {
        let name = self.name;
        match self.form {
            Form::Required => name.to_owned(),
            Form::Optional => format!("[{name}]"),
            Form::Rest => format!("[{name}]…"),
            Form::Flag => format!("[--{name}]"),
            Form::Value(value) => format!("[--{name} {value}]"),
            Form::Values(value) => format!("[--{name} {value}]…"),
        }
    }

    /// Whether it begins with dashes.
    pub fn is_option(&self) -> bool {
        matches!(self.form, Form::Flag | Form::Value(_) | Form::Values(_))
    }
}

impl Arguments {
    /// The value of an argument; of a flag that is there, empty text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// All values of an argument that may be there several times.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// An argument that the parser has seen to be there.
    ///
    /// # Panics
    /// If the command's table does not require it.
    pub fn required(&self, name: &str) -> &str {
        self.get(name).expect("the table of commands says that it is required")
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let number = |text: &str| {
            text.parse().map_err(|_| {
                Failure::Usage(format!("{name} is a number, not {}", words::quote(text)))
            })
        };
        self.get(name).map(number).transpose()
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        })
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal.0)
    }
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Failure {
        Failure::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn argument(form: Form, name: &'static str) -> Argument {
        Argument { form, name, doc: "" }
    }

    const COMMAND: Command = Command {
        name: "load",
        arguments: &[
            argument(Form::Required, "NAME"),
            argument(Form::Optional, "PLACE"),
            argument(Form::Value("FILE"), "library"),
            argument(Form::Values("KEY=VALUE"), "set"),
            argument(Form::Flag, "now"),
        ],
        summary: "",
        role: Role::Viewer,
        changes: false,
        run: |_| Box::pin(async { Ok(()) }),
    };

    fn parse(line: &str) -> Result<Arguments, Failure> {
        COMMAND.parse(&crate::monitor::words::split(line).unwrap())
    }

    #[test]
    fn usage() {
        assert_eq!(
            COMMAND.usage(),
            "load NAME [PLACE] [--library FILE] [--set KEY=VALUE]… [--now]"
        );
    }

    #[test]
    fn good_words() {
        let check = |line: &str, expected: &[(&str, &str)]| {
            let arguments = parse(line).unwrap();
            let found: Vec<_> =
                arguments.values.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(found, expected, "{line}");
        };
        check("a", &[("NAME", "a")]);
        check("a --now b", &[("NAME", "a"), ("now", ""), ("PLACE", "b")]);
        check("--library x a", &[("library", "x"), ("NAME", "a")]);
        check("--library=x=y a", &[("library", "x=y"), ("NAME", "a")]);
        check("a --set b=c --set=d=e", &[("NAME", "a"), ("set", "b=c"), ("set", "d=e")]);
        check("-- --now", &[("NAME", "--now")]);
        check("a --library --now", &[("NAME", "a"), ("library", "--now")]);
        assert_eq!(parse("a --set x --set y").unwrap().all("set").count(), 2);
        assert_eq!(parse("12").unwrap().number("NAME").unwrap(), Some(12));
    }

    #[test]
    fn bad_words() {
        let check = |line: &str, expected: &str| match parse(line) {
            Err(Failure::Usage(text)) => {
                assert!(text.contains(expected) && text.contains("usage: load"), "{line}: {text}")
            }
            other => panic!("{line}: {other:?}"),
        };
        check("", "NAME is missing");
        check("a b c", "does not take \"c\"");
        check("a --libary x", "did you mean --library?");
        check("a --zzz", "unknown option --zzz\n");
        check("a --library", "--library needs a value");
        check("a --now=1", "--now takes no value");
        check("a --library x --library y", "--library is given twice");
        assert!(matches!(parse("a").unwrap().number("NAME"), Err(Failure::Usage(_))));
    }
}
