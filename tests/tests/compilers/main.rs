//! Plugins from other compilers, and of other minors of the ABI: what fits is served, what does not is told why.

mod checkout;

use std::{env, path::PathBuf, process::Command};

use medusa_tests::{Canary, Client, Folder, Server, Tree, tool_from};

use crate::checkout::{Checkout, Patch, target};

/// Where Debian's package puts it, beside whatever else is installed.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

#[test]
fn a_plugin_of_debians_compiler_serves() {
    let Some(rustc) = tool_from(DEBIAN_RUSTC, "rustc-web") else { return };
    let ours = version(&env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from));
    let mut theirs = version(&rustc);
    // One that was installed long ago can be too old.
    if minor(&theirs) < checkout::rust_minor() && medusa_tests::newest("rustc-web").is_ok() {
        theirs = version(&rustc);
    }
    if ours == theirs {
        return medusa_tests::skip(&format!("both compilers are {ours}"));
    }
    if minor(&theirs) < checkout::rust_minor() {
        return medusa_tests::skip(&format!("{theirs} is too old for the workspace"));
    }
    let target = target().join("other-compiler");
    let workspace = checkout::workspace();
    let mut cargo = checkout::cargo(&workspace, &target);
    checkout::run(
        cargo.args(["--package", "medusa-echo", "--package", "medusa-hello"]).env("RUSTC", rustc),
    );

    let web = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n";
    let server = Server::start(&format!("{}{web}", Canary::CONFIGURATION));
    let [echo, hello] = ["echo", "hello"].map(|name| {
        let library = target.join(format!("test-run/libmedusa_{name}.so"));
        server.install(&format!("other-{name}"), &library);
        server
            .folder()
            .path(format!("plugins/other-{name}.so"))
            .to_str()
            .expect("a plain name")
            .to_owned()
    });
    let inspected = server.folder().medusa(["plugin", "inspect", &echo, "--json"], "").json();
    assert_eq!(inspected["rustc"], theirs, "{inspected}");

    let mut canary = Canary::of(&server);
    let upgraded = server.ctl_json(["upgrade", "canary", "--library", &echo]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    canary.sings();
    Canary::of(&server).sings();
    server.ctl(["load", "hello", "--library", "other-hello", "--attach", "web"]).succeeded();
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/hello").text(), "hello, number 1\n");
    let upgraded = server.ctl_json(["upgrade", "hello", "--library", &hello]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    assert_eq!(client.get("/hello").text(), "hello, number 1\n");
    let upgraded = server.ctl_json(["reload", "canary"]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    canary.sings();
    drop(canary);
    for name in ["hello", "canary"] {
        let unloaded = server.ctl_json(["unload", name]);
        assert_eq!(unloaded["mapped"], false, "{unloaded}");
    }
}

fn version(rustc: &PathBuf) -> String {
    let output = Command::new(rustc).arg("--version").output().expect("a compiler can be asked");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// 96 of `rustc 1.96.0 (…)`.
fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or_default()
}

/// What a new minor does: hooks and callbacks grow at the end. The programs get names of their own, for cargo tells
/// neither programs nor plugins of two packages apart by anything else.
const NEXT_MINOR: &[Patch] = &[
    (
        "host/Cargo.toml",
        "[lints]\n",
        "[[bin]]\nname = \"medusa-next\"\npath = \"src/main.rs\"\n\n[lints]\n",
    ),
    ("plugins/echo/Cargo.toml", "[lib]\n", "[lib]\nname = \"echo_next\"\n"),
    ("plugin-api/abi/src/lib.rs", "pub const ABI_MINOR: u16 = 0;", "pub const ABI_MINOR: u16 = 1;"),
    (
        "plugin-api/abi/src/root.rs",
        "    pub freeze: unsafe extern \"C\" fn(is_frozen: u32) -> Code,\n",
        "    pub freeze: unsafe extern \"C\" fn(is_frozen: u32) -> Code,\n    pub added: unsafe extern \"C\" fn() -> Code,\n",
    ),
    (
        "plugin-api/src/hooks.rs",
        "        freeze,\n",
        "        freeze,\n        added: heap_release::<P>,\n",
    ),
    (
        "plugin-api/abi/src/host.rs",
        "    pub waker_drop: unsafe extern \"C\" fn(waker: *const c_void),\n",
        "    pub waker_drop: unsafe extern \"C\" fn(waker: *const c_void),\n    pub added: unsafe extern \"C\" fn(waker: *const c_void),\n",
    ),
    (
        "host/src/plugin/callbacks/core.rs",
        "    waker_drop: waker::drop_clone,\n",
        "    waker_drop: waker::drop_clone,\n    added: waker::drop_clone,\n",
    ),
];

/// The same version, the same sizes, and yet another meaning.
const EDITED: &[Patch] = &[
    ("tests/fixtures/liar/Cargo.toml", "[lib]\n", "[lib]\nname = \"liar_edited\"\n"),
    (
        "plugin-api/abi/src/file.rs",
        "    pub user: u32,\n    pub group: u32,\n",
        "    pub group: u32,\n    pub user: u32,\n",
    ),
];

const SDK: [&str; 3] = ["plugin-api", "plugin-api/abi", "plugin-api/derive"];

#[test]
fn a_host_serves_the_minor_before_its_own_and_refuses_the_one_after() {
    let packages = [&SDK[..], &["host", "plugins/echo"]].concat();
    let newer = Checkout::of("next-minor", "0.1.1", &packages, NEXT_MINOR);
    let (program, echo) =
        (newer.build("medusa", "medusa-next"), newer.build("medusa-echo", "libecho_next.so"));

    // The tree's plugins, which are of the minor before, in the newer host.
    let folder = Folder::new().with_program(&program).with("site/a.txt", "of the minor before");
    let older = folder.start(&format!(
        "{}[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n[plugin.config]\nroot = \"site\"\n",
        Canary::CONFIGURATION
    ));
    let mut canary = Canary::of(&older);
    let mut client = Client::connect(older.address("web"));
    assert_eq!(client.get("/hello").text(), "hello, number 1\n");
    assert_eq!(client.get("/a.txt").text(), "of the minor before");
    let upgraded =
        older.ctl_json(["upgrade", "canary", "--library", echo.to_str().expect("a plain name")]);
    assert_eq!(
        upgraded["result"], "upgraded",
        "its own plugin is taken by the newer host: {upgraded}"
    );
    canary.sings();
    let upgraded = older.ctl_json(["reload", "canary"]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    canary.sings();
    drop((canary, client));
    for name in ["hello", "site", "web", "canary"] {
        let unloaded = older.ctl_json(["unload", name]);
        assert_eq!(unloaded["mapped"], false, "{unloaded}");
    }
    drop(older);

    // The newer plugin, in the host of today.
    let server = Server::start(Canary::CONFIGURATION);
    server.install("newer", &echo);
    let output = server.ctl(["load", "newer", "--library", "newer"]);
    output.refused("needs ABI 1.1, and this host has 1.0");
    output.refused("upgrade the host or build against medusa-plugin-api for ABI 1.0 or older");
    Canary::of(&server).sings();
}

#[test]
fn a_plugin_of_an_edited_contract_is_found_out() {
    let packages = [&SDK[..], &["tests/fixtures/liar"]].concat();
    let edited = Checkout::of("edited", "0.1.2", &packages, EDITED);
    let liar = edited.build("medusa-liar", "libliar_edited.so");
    let server = Server::start(Canary::CONFIGURATION);
    let mut canary = Canary::of(&server);
    server.install("edited", &liar);
    let output = server.ctl(["load", "edited", "--library", "edited"]);
    output.refused("its types are not those of this host's ABI");
    output.refused("FileInfo");
    assert!(server.plugin("edited").is_empty());
    assert!(server.process().mappings_of("edited").is_empty());
    canary.sings();
    // The same library, unedited, would have been taken.
    server.install("edited", &Tree::get().library("liar"));
    server.ctl(["load", "edited", "--library", "edited"]).succeeded();
    canary.sings();
}
