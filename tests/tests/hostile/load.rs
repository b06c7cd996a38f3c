//! Libraries that are refused: each by a sentence of its own, and with nothing left behind.

use std::{fs, time::Duration};

use medusa_tests::{Canary, Folder, Server, wait_until};

use crate::library::{build_c, bytes_of, patch};

/// The root in C, with what may be wrong with it.
fn root(magic: &str, minor: u16, hooks_size: usize) -> String {
    format!(
        "static long hooks[] = {{{hooks_size}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}};\n\
         const struct {{ char magic[8]; unsigned short major, minor; unsigned size; void *hooks, *heap, *layout; long spare[4]; }}\n\
         medusa_plugin = {{{magic}, 1, {minor}, 72, hooks}};\n"
    )
}

const MAGIC: &str = "\"medusa\\0\\1\"";

/// A server with a canary, into which libraries are loaded that it must refuse.
struct Host {
    // Dropped first: a server drains until its connections have ended.
    canary: Canary,
    server: Server,
}

impl Host {
    fn new() -> Self {
        let server = Server::start(Canary::CONFIGURATION);
        let canary = Canary::of(&server);
        Self { server, canary }
    }

    /// Loads it as the instance `bad`, which must fail with a sentence that holds each of these.
    #[track_caller]
    fn refuses(&mut self, library: &[u8], sentence: &[&str]) {
        self.server.folder().write("plugins/bad.so", library);
        let descriptors = self.server.process().descriptors().len();
        let output = self.server.ctl(["load", "bad", "--library", "bad"]);
        sentence.iter().for_each(|part| output.refused(part));
        output.refused("cannot load");
        assert!(self.server.plugin("bad").is_empty(), "nothing of it should be left");
        let mapped = self.server.process().mappings_of("bad");
        assert!(mapped.is_empty(), "nothing of it should be mapped: {mapped:?}");
        self.canary.sings();
        let process = self.server.process();
        wait_until("its descriptors to be closed", Duration::from_secs(10), || {
            process.descriptors().len() <= descriptors
        });
        // An upgrade to it leaves the old one serving.
        let upgraded = self.server.ctl_json(["upgrade", "canary", "--library", "plugins/bad.so"]);
        assert_eq!(upgraded["result"], "kept", "{upgraded}");
        self.canary.sings();
        let _ = Canary::of(&self.server);
    }

    #[track_caller]
    fn refuses_c(&mut self, code: &str, arguments: &[&str], sentence: &[&str]) {
        let folder = Folder::new();
        let library = fs::read(build_c(&folder, code, arguments)).expect("it was just built");
        self.refuses(&library, sentence);
    }
}

#[test]
fn a_file_that_is_no_library() {
    let mut host = Host::new();
    host.refuses(b"[[plugin]]\n", &["not a shared library", "text"]);
    host.refuses(b"", &["an empty file"]);
    let output = host.server.ctl(["load", "nobody", "--library", "nobody"]);
    output.refused("nobody.so");
}

#[test]
fn a_truncated_library() {
    let mut host = Host::new();
    let whole = bytes_of("echo");
    for length in [70, whole.len() / 2, whole.len() - 1] {
        host.refuses(&whole[..length], &["truncated", "copy or build it again"]);
    }
}

#[test]
fn a_library_for_another_processor() {
    let mut other = bytes_of("echo");
    // e_machine: RISC-V.
    other[18..20].copy_from_slice(&243_u16.to_le_bytes());
    Host::new().refuses(&other, &["another processor, RISC-V", "build it for the host's target"]);
}

#[test]
fn a_library_that_needs_a_newer_host() {
    let mut newer = bytes_of("echo");
    patch(&mut newer, "\"abi\":{\"major\":1,\"minor\":0}", "\"abi\":{\"major\":1,\"minor\":7}");
    Host::new().refuses(&newer, &["needs ABI 1.7, and this host has 1.0", "upgrade the host"]);
    let mut other = bytes_of("echo");
    patch(&mut other, "\"abi\":{\"major\":1,\"minor\":0}", "\"abi\":{\"major\":2,\"minor\":0}");
    Host::new().refuses(&other, &["made for ABI 2.0", "the major versions have to be equal"]);
}

#[test]
fn a_library_that_aborts_upon_a_panic() {
    Host::new().refuses(&bytes_of("aborts"), &["panic = \"abort\"", "would end the whole server"]);
}

#[test]
fn a_library_without_a_manifest() {
    let mut host = Host::new();
    let mut other = bytes_of("echo");
    patch(&mut other, ".medusa.manifest\0", ".medusa.menifest\0");
    host.refuses(&other, &["not a medusa plugin", "export_plugin!"]);
    let mut other = bytes_of("echo");
    patch(&mut other, "{\"format\":1,", "{\"format\":1;");
    host.refuses(&other, &["its manifest cannot be read"]);
}

#[test]
fn libraries_that_could_not_be_unloaded() {
    let mut host = Host::new();
    let good = root(MAGIC, 0, 88);
    let tls =
        "__thread int t __attribute__((tls_model(\"initial-exec\"))); int f(void) { return t; }";
    host.refuses_c(&format!("{good}{tls}"), &[], &["static thread-local storage"]);
    host.refuses_c(&good, &["-Wl,-z,nodelete"], &["never to be unmapped", "-z nodelete"]);
    let unique = "__asm__(\".type only, @gnu_unique_object\"); int only = 1;";
    host.refuses_c(&format!("{good}{unique}"), &[], &["its symbol only is unique"]);
}

#[test]
fn libraries_that_need_what_is_not_there() {
    let mut host = Host::new();
    let folder = Folder::new();
    let needed = folder.path("libnowhere.so");
    let library =
        build_c(&folder, "int nowhere(void) { return 1; }", &["-Wl,-soname,libnowhere.so"]);
    fs::rename(library, &needed).expect("a file can be renamed in its folder");
    let path = needed.to_str().expect("a temporary folder has a plain name").to_owned();
    let uses_it = format!(
        "{}extern int nowhere(void); int f(void) {{ return nowhere(); }}",
        root(MAGIC, 0, 88)
    );
    host.refuses_c(&uses_it, &[&path], &["it needs libnowhere.so", "not on this machine"]);
    host.refuses_c(&uses_it, &[], &["it needs the function nowhere", "link all that it needs"]);
}

#[test]
fn roots_that_are_none() {
    let mut host = Host::new();
    host.refuses_c("int other;", &[], &["does not export `medusa_plugin`"]);
    host.refuses_c("void *medusa_plugin;", &[], &["the magic number is wrong"]);
    host.refuses_c(&root("\"somebody\"", 0, 88), &[], &["the magic number is wrong"]);
    host.refuses_c(&root(MAGIC, 9, 88), &[], &["ABI 1.9", "its manifest says otherwise"]);
    host.refuses_c(
        &root(MAGIC, 0, 40),
        &[],
        &["its table of hooks has 40 bytes, and 88 are needed"],
    );
    host.refuses_c(&root(MAGIC, 0, 0), &[], &["its table of hooks has 0 bytes"]);
}
