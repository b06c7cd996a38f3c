//! docs/writing-plugins.md: the commands of its first two sections do what stands behind them, in a new user's order.
//!
//! The lines run as they stand there, but for places: the server is the test's own, and new plugins go to its folder. What
//! follows a `#` has to be in the answer.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use medusa_tests::{Client, Server, Tree, exchange};

/// Stands where the guide names its server of HTTP, and its server of TCP.
const HTTP: &str = "http://127.0.0.1:8080";
const TCP: &str = "127.0.0.1:7070";

#[test]
fn an_http_extension_from_nothing() {
    let server = Server::with_site(&[("index.html", b"the site\n")]);
    let lines = Reader::new(&server, "greeting").follow("1. ");
    assert!(lines > 10, "the guide's first section has only {lines} lines of shell");
    assert_eq!(Client::connect(server.address("web")).get("/").text(), "the site\n");
}

#[test]
fn a_tcp_server_from_nothing() {
    let server = Server::start("");
    let lines = Reader::new(&server, "shout").follow("2. ");
    assert!(lines > 10, "the guide's second section has only {lines} lines of shell");
}

/// Somebody who types what the guide says, with a server at hand.
struct Reader<'a> {
    server: &'a Server,
    /// The plugin that is made.
    name: &'static str,
    /// Where they are.
    folder: PathBuf,
}

impl<'a> Reader<'a> {
    fn new(server: &'a Server, name: &'static str) -> Self {
        Self { server, name, folder: workspace().to_owned() }
    }

    /// Types all lines of a section's shell blocks, and says how many those were.
    fn follow(mut self, section: &str) -> usize {
        let guide = workspace().join("docs/writing-plugins.md");
        let guide = fs::read_to_string(guide).expect("the guide can be read");
        let section = guide.split("\n## ").find(|it| it.starts_with(section));
        let blocks = section.expect("the guide has the section").split("```sh\n").skip(1);
        let lines: Vec<&str> = blocks
            .flat_map(|block| block.split("```").next().expect("a block ends").lines())
            .collect();
        lines.iter().for_each(|line| self.line(line));
        lines.len()
    }

    fn line(&mut self, line: &str) {
        let (typed, expected) = line.split_once(" # ").unwrap_or((line, ""));
        let (typed, expected) = (typed.trim(), expected.trim());
        if typed == "cargo xtask run" || typed.starts_with("alias ctl=") {
            return; // The test has a server, and `shell` knows `ctl`.
        }
        if typed.starts_with("cd ") {
            self.folder = self.made();
            return self.share_target();
        }
        // curl need not be installed here.
        let said = match typed.split_once("curl -s ") {
            Some(("", url)) => self.get(url),
            Some((echo, _)) => self.send(echo),
            None => self.shell(typed),
        };
        assert!(said.contains(expected), "`{typed}` should say `{expected}`, and said:\n{said}");
    }

    /// `curl -s URL`
    fn get(&self, url: &str) -> String {
        let path = url.strip_prefix(HTTP).unwrap_or_else(|| panic!("{url} is not at {HTTP}"));
        Client::connect(self.server.address("web")).get(path).text().to_owned()
    }

    /// `echo WORD | curl … telnet://…`
    fn send(&self, echo: &str) -> String {
        let word = echo.split(' ').nth(1).expect("a word follows `echo`");
        let answer = exchange(self.server.address(self.name), format!("{word}\n"));
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn shell(&self, typed: &str) -> String {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0)).to_string();
        let made = self.made();
        let made = made.to_str().expect("a temporary folder's name is text");
        let typed = typed.replace(TCP, &any_port).replace(&format!("../{}", self.name), made);
        // One profile for the plugin and its test, so that the SDK's dependencies are compiled once.
        let typed = typed.replace(" --release", "");
        let script = format!(
            "ctl() {{ \"$MEDUSA\" ctl --socket \"$SOCKET\" \"$@\"; }}\n\
             cargo() {{ command \"$CARGO\" \"$@\"; }}\n\
             {typed} 2>&1"
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).current_dir(&self.folder);
        shell.env("MEDUSA", self.server.folder().program()).env("SOCKET", self.server.socket());
        shell.env("CARGO", env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        if self.folder == self.made() {
            shell.env("CARGO_TARGET_DIR", target());
        }
        let output = shell.output().expect("sh can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "`{typed}` failed:\n{said}");
        said
    }

    /// Where the new plugin lies: not beside this checkout.
    fn made(&self) -> PathBuf {
        self.server.folder().path(self.name)
    }

    /// Has `target/release` of the new plugin lead to where its library is built.
    fn share_target(&self) {
        let folder = self.folder.join("target");
        fs::create_dir(&folder).expect("a folder can be made in a new plugin");
        symlink(target().join("debug"), folder.join("release")).expect("so can a link");
    }
}

/// A target folder beside the tree: what is compiled once serves both tests, and the next run.
fn target() -> PathBuf {
    Tree::get().root().with_file_name("medusa-test-new-plugin")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}
