//! The command line: what `medusa` can be told, and the exit status of each.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    app::{
        check, passwd, serve,
        succession::{
            self, Left,
            aftermath::{self, Aftermath},
            preflight,
        },
    },
    config::{Config, Diagnostics},
    monitor::{
        client::{Client, ClientError},
        console, protocol,
    },
    sys::exec,
};

/// An internet server that is changed while it runs.
#[derive(Parser)]
#[command(name = "medusa", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server; SIGTERM and SIGINT drain and stop it
    Serve {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Say what is wrong with a configuration, without loading anything; exit status 0 or 1
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Say whether this program could go on where a running one leaves off; `upgrade-host` asks that
    #[command(hide = true)]
    Preflight,
    /// Read a password from standard input and print its argon2id hash
    Passwd,
    /// Look at plugins' libraries
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Run one monitor command; exit status 0 done, 1 refused or failed, 2 bad usage (`medusa ctl help` lists them)
    Ctl {
        #[command(flatten)]
        host: Host,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The command and its arguments
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "COMMAND"
        )]
        words: Vec<String>,
    },
    /// Run monitor commands as they are typed: on a terminal with history and completion; else line by line, exit status 0 if all succeeded
    Monitor {
        #[command(flatten)]
        host: Host,
    },
}

#[derive(Subcommand)]
enum PluginCommand {
    /// Print a library's manifest, without running the library
    Inspect {
        /// The library
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file; relative paths in it are relative to its folder
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// Which running host is meant.
#[derive(Args)]
struct Host {
    /// The configuration file that names the monitor's socket [default: medusa.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The monitor's socket
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

const DEFAULT_FILE: &str = "medusa.toml";

/// Does what the command line says.
pub fn run() -> ExitCode {
    // First of all: whatever fails from here on brings back the program that this one follows, if it does.
    let left = match succession::left() {
        Ok(left) => left,
        Err(sentence) => return fail(&sentence),
    };
    if let Some(left) = &left
        && let Err(reason) = succession::fails_after("host.read", left.back.as_ref())
    {
        exec::go_back();
        return fail(&reason);
    }
    let after = match aftermath::left() {
        Ok(after) => after,
        Err(sentence) => return fail(&sentence),
    };
    match Cli::parse().command {
        Command::Serve { file } => match config(&file, left.as_ref(), after.as_ref()) {
            Ok(config) => serve::run(config, left, after),
            Err(problems) => {
                exec::go_back();
                show(&problems)
            }
        },
        Command::Check { file } => match check::check(&file.config) {
            Ok(summary) => print(&summary),
            Err(problems) => show(&problems),
        },
        Command::Preflight => preflight::answer(),
        Command::Passwd => match passwd::read_and_hash() {
            Ok(hash) => print(&hash),
            Err(sentence) => fail(&sentence),
        },
        Command::Plugin(PluginCommand::Inspect { file, json }) => match check::inspect(&file, json)
        {
            Ok(text) => print(&text),
            Err(sentence) => fail(&sentence),
        },
        Command::Ctl { host, json, words } => on_socket(&host, |socket| {
            Client::connect(&Client::runtime()?, socket)?.run(words, json)
        }),
        Command::Monitor { host } => on_socket(&host, console::run),
    }
}

/// The configuration to serve by: that in force, where another image of the host served before.
fn config(
    file: &ConfigFile,
    left: Option<&Left>,
    after: Option<&Aftermath>,
) -> Result<Config, Diagnostics> {
    let inheritance = left.map(|left| &left.inheritance);
    match inheritance.or_else(|| after.map(Aftermath::inheritance)) {
        Some(inheritance) => inheritance.config(),
        None => Config::load(&file.config),
    }
}

impl Host {
    fn socket(&self) -> Result<PathBuf, Diagnostics> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(config)) => Config::monitor_socket(config),
            (None, None) => Config::monitor_socket(Path::new(DEFAULT_FILE)),
        }
    }
}

fn on_socket(host: &Host, talk: impl FnOnce(&Path) -> Result<u8, ClientError>) -> ExitCode {
    let socket = match host.socket() {
        Ok(socket) => socket,
        Err(_) if host.config.is_none() => {
            return fail(
                "which medusa? name its configuration with --config FILE, or its socket with --socket PATH",
            );
        }
        Err(problems) => return show(&problems),
    };
    match talk(&socket) {
        Ok(exit) => ExitCode::from(exit),
        // As a shell shows a program that SIGPIPE ended; there is nobody to tell.
        Err(ClientError::OutputClosed) => ExitCode::from(141),
        Err(error) => fail(&error.to_string()),
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(protocol::FAILED),
    }
}

fn show(problems: &Diagnostics) -> ExitCode {
    eprint!("{}", problems.render(std::io::stderr().is_terminal()));
    let count = problems.len();
    eprintln!("{count} {} in the configuration", if count == 1 { "mistake" } else { "mistakes" });
    ExitCode::from(protocol::FAILED)
}

fn fail(sentence: &str) -> ExitCode {
    eprintln!("medusa: {}", sentence.trim_end());
    ExitCode::from(protocol::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_monitors_words_are_not_ours() {
        let check = |line: &str, expected: &[&str], expected_json| {
            let Command::Ctl { json, words, .. } = Cli::parse_from(line.split(' ')).command else {
                panic!("{line}")
            };
            assert_eq!(
                (words, json),
                (expected.iter().map(|word| word.to_string()).collect(), expected_json),
                "{line}"
            );
        };
        check("medusa ctl plugins", &["plugins"], false);
        check("medusa ctl --json plugins", &["plugins"], true);
        check("medusa ctl --socket s load a --library b", &["load", "a", "--library", "b"], false);
        check("medusa ctl unload a --now --json", &["unload", "a", "--now", "--json"], false);
        check("medusa ctl help", &["help"], false);
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "medusa",
            "medusa ctl",
            "medusa ctl --socket a --config b x",
            "medusa serve x",
            "medusa frobnicate",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
