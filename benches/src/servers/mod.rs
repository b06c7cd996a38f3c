//! The servers that are measured: how each is configured, started, asked for its costs, and stopped.

mod beside;
mod lighttpd;
mod medusa;
mod nginx;
mod process;
mod server;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, rows::Row, site::Site};

pub(crate) use self::server::Server;

/// Which server.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// medusa, with all sample plugins.
    Medusa,
    /// The same with `counters = false`.
    MedusaUncounted,
    /// hyper linked in statically: a greeting and nothing else.
    Hyper,
    /// tokio's loop, one read and one write: what a request costs before anybody knows what it says.
    BareLoop,
    /// nginx.
    Nginx,
    /// nginx that accepts a connection once it has sent something.
    NginxDeferred,
    /// lighttpd.
    Lighttpd,
}

impl Kind {
    /// The name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Medusa => "medusa",
            Kind::MedusaUncounted => "medusa, counters off",
            Kind::Hyper => "static hyper",
            Kind::BareLoop => "bare loop",
            Kind::Nginx => "nginx",
            Kind::NginxDeferred => "nginx, deferred accept",
            Kind::Lighttpd => "lighttpd",
        }
    }

    /// What is asked for to know that it serves.
    pub(crate) fn sign_of_life(self) -> &'static str {
        match self {
            Kind::Hyper => "/hello",
            _ => "/1k.txt",
        }
    }

    /// Whether its program is there; or how that is made so.
    pub(crate) fn installed(self) -> Result<()> {
        self.program().map(drop)
    }

    /// The versions of all that the rows are measured beside, and of the load.
    pub(crate) fn versions_in(rows: &[&Row]) -> Vec<String> {
        let is_there = |kind| rows.iter().any(|row| row.peer == kind);
        let mut versions = Vec::new();
        if is_there(Kind::Nginx) || is_there(Kind::NginxDeferred) {
            versions.extend(first_line("nginx", "-v"));
        }
        if is_there(Kind::Hyper) {
            versions.push("hyper as in Cargo.lock".to_owned());
        }
        if is_there(Kind::BareLoop) {
            versions.push("tokio as in Cargo.lock".to_owned());
        }
        if is_there(Kind::Lighttpd) {
            versions.extend(first_line("lighttpd", "-v"));
        }
        versions.extend(first_line("wrk", "-v"));
        versions
    }

    fn program(self) -> Result<PathBuf> {
        match self {
            Kind::Medusa | Kind::MedusaUncounted => medusa::program(),
            Kind::Hyper => beside::program("hyper-static"),
            Kind::BareLoop => beside::program("bare-loop"),
            Kind::Nginx | Kind::NginxDeferred => find("nginx"),
            Kind::Lighttpd => find("lighttpd"),
        }
    }

    /// Its command, with its configuration written into the folder.
    fn command(self, folder: &Path, site: &Site, port: u16) -> Result<Command> {
        let mut command = Command::new(self.program()?);
        match self {
            Kind::Medusa => medusa::configure(&mut command, folder, site, port, true)?,
            Kind::MedusaUncounted => medusa::configure(&mut command, folder, site, port, false)?,
            Kind::Hyper | Kind::BareLoop => beside::configure(&mut command, port),
            Kind::Nginx => nginx::configure(&mut command, folder, site, port, "")?,
            Kind::NginxDeferred => nginx::configure(&mut command, folder, site, port, " deferred")?,
            Kind::Lighttpd => lighttpd::configure(&mut command, folder, site, port)?,
        }
        Ok(command)
    }
}

/// Finds a program, also where only root looks.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("there is no {program}: `apt-get install {program}`"))
}

/// Writes a configuration, and answers where.
fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{name} cannot be written: {error}"))?;
    Ok(path)
}

/// What a program says of its version: nginx and wrk do so on standard error or with a failure.
fn first_line(program: &str, option: &str) -> Option<String> {
    let output = Command::new(find(program).ok()?).arg(option).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&said).lines().next()?.trim().to_owned();
    // lighttpd and wrk go on about themselves.
    let line = line.strip_prefix("nginx version: ").unwrap_or(&line);
    let end = line.find(" - ").or(line.find(" [")).unwrap_or(line.len());
    Some(line[..end].to_owned())
}
