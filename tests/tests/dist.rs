//! `cargo xtask dist`: the tarball holds what a machine without Rust needs, and always the same bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use medusa_tests::{Client, CtlOutput, Folder, Tree, skip, tool_from, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Packs what the tests run, into a folder; the tarball.
fn packed(to: &Path) -> PathBuf {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace)
        .args(["xtask", "dist", "--profile", "test-run", "--to"])
        .arg(to)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries = fs::read_dir(to).expect("the folder is there");
    let files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    let [tarball] = &files[..] else { panic!("one tarball, and nothing else: {files:?}") };
    tarball.clone()
}

fn run(program: &Path, folder: &Path, arguments: &[&str]) -> CtlOutput {
    let output =
        Command::new(program).current_dir(folder).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    CtlOutput {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Ends with its test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_packed_runs_where_it_is_unpacked() {
    let folder = Folder::new();
    let tarball = packed(&folder.path("one"));
    let again = packed(&folder.path("two"));
    assert!(
        fs::read(&tarball).expect("it can be read") == fs::read(&again).expect("it can be read"),
        "the same tree makes the same bytes"
    );
    let name = tarball.file_name().and_then(|name| name.to_str()).expect("its name is text");
    let name = name.strip_suffix(".tar.gz").expect("it is compressed");
    assert!(name.starts_with("medusa-0.") && name.ends_with("-linux-gnu"), "{name}");

    let unpacked = folder.path("unpacked");
    fs::create_dir(&unpacked).expect("a folder can be made");
    run("tar".as_ref(), &unpacked, &["xf", tarball.to_str().expect("it is text")]).succeeded();
    let root = unpacked.join(name);
    for file in [
        "INSTALL.md",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "docs/configuration.md",
        "plugins/http.so",
    ] {
        assert!(root.join(file).is_file(), "{file} is missing");
    }
    let modified =
        fs::metadata(root.join("bin/medusa")).and_then(|it| it.modified()).expect("it is there");
    let since = modified.duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    assert_eq!(since.as_secs(), 1_700_000_000);

    let fails_when_asked = |program: &Path| {
        let bytes = fs::read(program).expect("it can be read");
        bytes.windows(13).any(|window| window == b"MEDUSA_FAULTS")
    };
    assert!(fails_when_asked(&Tree::get().program()), "the one that the tests run does");
    assert!(!fails_when_asked(&root.join("bin/medusa")), "no other does");

    serves_its_site(&root);
    the_unit_is_sound(&root, &folder.path("installed"));
}

fn serves_its_site(root: &Path) {
    let medusa = root.join("bin/medusa");
    run(&medusa, root, &["check", "--config", "medusa.toml"]).succeeded();
    let sample = fs::read_to_string(root.join("medusa.toml")).expect("it is there");
    assert!(sample.contains("127.0.0.1:8080"), "{sample}");
    fs::write(root.join("medusa.toml"), sample.replace(":8080", ":0")).expect("it is ours");
    let log = fs::File::create(root.join("log")).expect("the folder is ours");
    let child = Command::new(&medusa)
        .current_dir(root)
        .args(["serve", "--config", "medusa.toml"])
        .stderr(log)
        .spawn()
        .expect("it can be run");
    let mut served = Served(child);
    let address = wait_for("the site to be served", PATIENCE, || {
        let output = run(&medusa, root, &["ctl", "--json", "plugins"]);
        let plugins: Value = serde_json::from_str(&output.stdout).ok()?;
        let plugins = plugins.as_array()?;
        let all = plugins.iter().filter(|it| it["state"] == "running").count() == 3;
        let web = plugins.iter().find(|it| it["name"] == "web")?;
        all.then(|| web["listen"][0].as_str()?.parse().ok()).flatten()
    });
    let page = Client::connect(address).get("/");
    assert!(page.status == 200 && page.text().contains("medusa"), "{page:?}");
    let pid = Pid::from_raw(served.0.id().cast_signed()).expect("a child has a number");
    kill_process(pid, Signal::TERM).expect("it is ours");
    let status = wait_for("it to end", PATIENCE, || served.0.try_wait().expect("it can be asked"));
    assert!(status.success(), "{}", fs::read_to_string(root.join("log")).unwrap_or_default());
}

/// The unit and its configuration, with the paths of an installation that is none.
fn the_unit_is_sound(root: &Path, installed: &Path) {
    fs::create_dir(installed).expect("a folder can be made");
    let places =
        [("/usr/local/bin", "bin"), ("/usr/local/lib/medusa", ""), ("/usr/local/share/medusa", "")];
    let place = |file: &str| {
        let mut text = fs::read_to_string(root.join("systemd").join(file)).expect("it is there");
        for (from, to) in places {
            text = text
                .replace(from, root.join(to).to_str().expect("it is text").trim_end_matches('/'));
        }
        fs::write(installed.join(file), text).expect("the folder is ours");
    };
    place("medusa.toml");
    place("medusa.service");
    place("medusa.socket");
    place("before-253.conf");
    run(&root.join("bin/medusa"), installed, &["check", "--config", "medusa.toml"]).succeeded();

    // For the sake of a folder of systemd, as it has in containers too; a system that is not run by it is no hindrance.
    let Some(analyze) = tool_from("systemd-analyze", "systemd") else { return };
    if version(&analyze, installed) < 253 {
        use_what_is_for_older_ones(installed);
    }
    let verified =
        run(&analyze, installed, &["verify", "--man=no", "./medusa.service", "./medusa.socket"]);
    let said = &verified.stderr;
    assert!(verified.status == 0, "{verified:?}");
    assert!(!said.contains("medusa.service") && !said.contains("medusa.socket"), "{verified:?}");
    let rated = run(
        &analyze,
        installed,
        &["security", "--offline=true", "--threshold=20", "./medusa.service"],
    );
    if rated.stderr.contains("unrecognized option") {
        return skip("this systemd-analyze rates no units offline");
    }
    assert_eq!(rated.status, 0, "it is open to more than it needs:\n{rated:?}");
}

/// Of systemd: `systemd 252 (252.38-1)`.
fn version(analyze: &Path, folder: &Path) -> u32 {
    let output = run(analyze, folder, &["--version"]);
    let word = output.stdout.split_whitespace().nth(1).unwrap_or_default();
    let digits = word.split(|it: char| !it.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no version: {output:?}"))
}

/// As an operator does with a systemd that does not know the unit's type, which it says and ignores.
fn use_what_is_for_older_ones(installed: &Path) {
    let unit = installed.join("medusa.service");
    let text = fs::read_to_string(&unit).expect("it was placed");
    assert!(text.contains("Type=notify-reload\n"), "{text}");
    fs::write(&unit, text.replace("Type=notify-reload\n", "")).expect("the folder is ours");
    let folder = installed.join("medusa.service.d");
    fs::create_dir(&folder).expect("a folder can be made");
    let conf = installed.join("before-253.conf");
    fs::rename(conf, folder.join("before-253.conf")).expect("the folder is ours");
}
