//! `cargo xtask run`: builds everything and serves the sample site on loopback until ^C.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
};

use crate::{
    Result,
    arguments::{Arguments, Usage},
    build::{self, Plan},
    sample::{self, HTTP_PORT},
    tree::Tree,
    workspace::Workspace,
};

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let port = arguments.option("--port")?;
    let port = port
        .map(|port| port.parse().map_err(|_| Usage::of(format!("`{port}` is no port"))))
        .transpose()?;
    arguments.finish()?;

    let workspace = Workspace::read()?;
    let plan = Plan {
        profile: "release".into(),
        tree: workspace.target_dir.join("medusa"),
        with_fixtures: false,
    };
    refuse_if_served(&Tree { root: plan.tree.clone() })?;
    let tree = build::build(&workspace, &plan)?;
    // Somebody else may have been quicker while this was built.
    refuse_if_served(&tree)?;
    let port = free_port(port.unwrap_or(HTTP_PORT))?;
    tree.write(&sample::configuration(&tree, port), "medusa.toml")?;
    print!("{}", invitation(&tree, port));

    // In our place rather than below us: ^C reaches the server alone, and the shell waits until it has drained.
    let mut server = Command::new(tree.program());
    let error = server.arg("serve").arg("--config").arg(tree.configuration()).exec();
    Err(format!("cannot run {}: {error}", tree.program().display()).into())
}

/// A server that runs keeps the configuration that it was started with.
fn refuse_if_served(tree: &Tree) -> Result<()> {
    if !tree.is_served() {
        return Ok(());
    }
    let ctl =
        format!("{} ctl --config {}", relative(&tree.program()), relative(&tree.configuration()));
    Err(format!(
        "a server runs from {} already; end it with `{ctl} shutdown` (or ^C where it runs), or go on with it: `{ctl} plugins`; \
         `cargo xtask build` gives it new libraries to upgrade to",
        relative(&tree.root)
    )
    .into())
}

/// The port wished for, or another one if it is taken.
fn free_port(wished: u16) -> Result<u16> {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, wished)).is_ok() {
        return Ok(wished);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .map_err(|error| format!("no port is free: {error}"))?;
    let port = listener.local_addr()?.port();
    println!("port {wished} is taken; using {port}");
    Ok(port)
}

/// Where the server is and what to try, of what the tree holds.
fn invitation(tree: &Tree, port: u16) -> String {
    let program = relative(&tree.program());
    let configuration = relative(&tree.configuration());
    let web = format!("http://127.0.0.1:{port}");
    let mut text = String::new();
    if tree.has_plugin("http-files") {
        text.push_str(&format!("\nmedusa serves the sample site at {web}/ — ^C stops it.\n"));
    } else {
        text.push_str("\nmedusa runs — ^C stops it.\n");
    }
    text.push_str("In another terminal, from this folder:\n\n");
    text.push_str(&format!("  alias ctl='{program} ctl --config {configuration}'\n"));
    text.push_str("  ctl plugins                                        # what is loaded\n");
    if tree.has_plugin("http-files") {
        text.push_str(&format!("  curl -i {web}/\n"));
    }
    if tree.has_plugin("http-status") && tree.has_plugin("http") {
        text.push_str(&format!(
            "  curl {web}/status/health                # or {web}/status in a browser\n"
        ));
    }
    if tree.has_plugin("hello") && tree.has_plugin("http") {
        text.push_str("\n  ctl load hello --library hello --attach web        # an HTTP extension joins the running site\n");
        text.push_str(&format!("  curl {web}/hello\n"));
        text.push_str("  ctl upgrade hello                                  # a new generation takes over; nobody notices\n");
        text.push_str("  ctl unload hello                                   # its code and its memory are gone\n");
    }
    if tree.has_plugin("echo") {
        text.push_str("\n  ctl load echo --library echo --listen 127.0.0.1:7007\n");
        text.push_str(
            "  curl -N telnet://127.0.0.1:7007                    # type; it answers; ^C leaves\n",
        );
        text.push_str("  ctl unload echo\n");
    }
    if tree.has_plugin("talk") {
        text.push_str("\n  ctl load talk --library talk --listen 127.0.0.1:8888\n");
        text.push_str(
            "  curl -N telnet://127.0.0.1:8888                    # in two terminals: give a nick, and chat\n",
        );
        text.push_str(
            "  ctl upgrade talk                                   # both go on, on the connections that they have\n",
        );
    }
    text.push_str("\n  ctl help                                           # everything else\n\n");
    text
}

/// The path as one types it here, if it lies below.
fn relative(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn a_second_server_is_refused_while_the_first_one_runs() {
        let root = env::temp_dir().join(format!("xtask-run-{}", std::process::id()));
        let tree = Tree { root: root.clone() };
        assert!(refuse_if_served(&tree).is_ok());
        fs::create_dir_all(root.join("run")).unwrap();
        let socket = UnixListener::bind(root.join("run/medusa.sock")).unwrap();
        let refusal = refuse_if_served(&tree).unwrap_err().to_string();
        assert!(refusal.contains("already") && refusal.contains("shutdown"), "{refusal}");
        drop(socket);
        assert!(refuse_if_served(&tree).is_ok(), "a stale socket is nobody");
        fs::remove_dir_all(root).unwrap();
    }
}
