//! What cargo cannot do alone: `cargo xtask COMMAND`.
//!
//! A file per command. Few dependencies on purpose: this crate is compiled before anything else can happen.

mod arguments;
mod bench;
mod build;
mod cargo;
mod dist;
mod new_plugin;
mod packages;
mod run;
mod sample;
mod soak;
mod test;
mod tidy;
mod tree;
mod workspace;

use std::{env, error::Error, process::ExitCode};

use arguments::{Arguments, Usage};

/// What every command returns; the message is a sentence for a person.
type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const HELP: &str = "\
cargo xtask COMMAND

  run                          build everything (release) and serve the sample site on loopback
  test [FILTER] [--quick]      formatting, lints, tidy, then every test; --quick leaves the first three out
  build [--debug]              leave a runnable tree in target/medusa: bin/medusa, plugins/NAME.so, medusa.toml, site/
        [--profile P] [--tree DIR] [--fixtures]
  dist [--profile P] [--to DIR]
                               pack target/dist/medusa-VERSION-TARGET.tar.gz: program, plugins, unit for systemd, documents
  new-plugin NAME [--path DIR] make a plugin that builds, has a test and can be loaded; in plugins/, or in --path
        [--session]            it serves connections, with --session such as rest between their turns;
        [--http|--filter|--observer]
                               or it answers HTTP requests, stands before those that do, or hears what became of them
  tidy                         check layers, file heads, unsafe code, documents and links
  soak [NAME] [--list]         run the tests with their full counts and record the outcome under benches/runs
  bench [--rounds N]           measure beside nginx, lighttpd and static hyper, and record it there too; benches/README.md
        [--seconds N] [--held N] [--only WORD] [--quick]
";

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(words: Vec<String>) -> Result<()> {
    let mut arguments = Arguments::new(words);
    match arguments.positional().as_deref() {
        Some("run") => run::run(arguments),
        Some("test") => test::run(arguments),
        Some("build") => build::run(arguments),
        Some("dist") => dist::run(arguments),
        Some("new-plugin") => new_plugin::run(arguments),
        Some("tidy") => tidy::run(arguments),
        Some("soak") => soak::run(arguments),
        Some("bench") => bench::run(arguments),
        None | Some("help") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => {
            Err(Usage::of(format!("no command is called `{other}`; `cargo xtask help` lists them")))
        }
    }
}
