//! A library that is built with the platform's C compiler, and a few bytes of it changed at a time.

use std::{fs, process::Command};

use super::*;
use crate::plugin::manifest::PluginKind;

fn manifest() -> String {
    let AbiVersion { major, minor } = Host::THIS.abi;
    format!(
        r#"{{"format":1,"name":"probe","version":"1.2.3","description":"A probe.","abi":{{"major":{major},"minor":{minor}}},
        "kind":"service","rustc":"rustc 1.95.0","target":"{}","panic":"unwind","capabilities":["listen"],"exclusive":[],
        "config":{{"doc":"","fields":[{{"name":"root","type":"path","required":true,"doc":"Where."}}]}}}}"#,
        Host::THIS.target
    )
}

/// A shared library with the manifest (if it is not empty), made from `code` with more arguments for the compiler.
fn build(manifest: &str, code: &str, arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("a.c"), folder.path().join("a.so"));
    let section = format!(
        "__attribute__((section(\".medusa.manifest\"), used)) static const char manifest[] = {manifest:?};\n"
    );
    let section = if manifest.is_empty() { "" } else { &section };
    fs::write(&source, format!("{section}{code}\n")).unwrap();
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).args(arguments);
    assert!(cc.current_dir(folder.path()).status().unwrap().success(), "{cc:?}");
    fs::read(library).unwrap()
}

const ENTRY: &str = "const long medusa_plugin[4] = {1};";

/// A library that this host loads.
pub(crate) fn good() -> Vec<u8> {
    build(&manifest(), ENTRY, &[])
}

fn refusal(bytes: &[u8]) -> Refusal {
    inspect(bytes).unwrap_err()
}

/// Changes bytes, which have to be there.
fn patch(bytes: &mut [u8], offset: usize, from: &[u8], to: &[u8]) {
    assert_eq!(&bytes[offset..offset + from.len()], from);
    bytes[offset..offset + to.len()].copy_from_slice(to);
}

#[test]
fn a_plugin_is_read() {
    let inspection = inspect(&good()).unwrap();
    assert_eq!(inspection.manifest.name, "probe");
    assert_eq!(inspection.manifest.kind, PluginKind::Service);
    assert!(inspection.has_entry);
    assert_eq!(inspection.warnings, [""; 0]);

    let text = render_text(&inspection);
    for expected in
        ["probe 1.2.3: A probe.", "root (path, required): Where.", "this host can load it"]
    {
        assert!(text.contains(expected), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&render_json(&inspection)).unwrap();
    assert_eq!(json["name"], "probe");
    assert_eq!(json["loadable"], true);
    assert_eq!(json["refusal"], serde_json::Value::Null);
}

#[test]
fn it_need_not_be_aligned() {
    let mut shifted = vec![0];
    shifted.extend(good());
    inspect(&shifted[1..]).unwrap();
}

#[test]
fn what_is_no_library_is_refused() {
    for (bytes, looks_like) in [
        (b"[[plugin]]\nname = 1\n".as_slice(), "text"),
        (b"", "an empty file"),
        (b"!<arch>\n", "a static library"),
        (b"MZ\x90\0", "a Windows library"),
        (b"\xfe\xed\0\0", "something else"),
    ] {
        let sentence = refusal(bytes).to_string();
        assert!(sentence.contains(looks_like) && sentence.contains("cdylib"), "{sentence}");
    }
}

#[test]
fn a_truncated_library_is_refused_wherever_it_ends() {
    let bytes = good();
    for length in (4..bytes.len()).step_by(61) {
        let refusal = refusal(&bytes[..length]);
        assert!(matches!(refusal, Refusal::Truncated { .. }), "at {length}: {refusal}");
    }
    assert!(refusal(&bytes[..bytes.len() - 1]).to_string().contains("announces"));
}

#[test]
fn no_damaged_byte_makes_it_panic() {
    let bytes = good();
    for offset in 0..bytes.len().min(4096) {
        for value in [0, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[offset] = value;
            let _ = inspect(&damaged);
        }
    }
    // The tables at the end, too.
    for offset in bytes.len().saturating_sub(3000)..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0xff;
        let _ = inspect(&damaged);
    }
}

#[test]
fn other_machines_and_kinds_are_refused() {
    let bytes = good();
    let mut other = bytes.clone();
    // e_machine: RISC-V.
    other[18..20].copy_from_slice(&243_u16.to_le_bytes());
    assert!(matches!(refusal(&other), Refusal::Architecture { file, .. } if file == "RISC-V"));
    let mut other = bytes.clone();
    patch(&mut other, 4, &[2], &[1]); // ELFCLASS32
    assert_eq!(refusal(&other), Refusal::NotElf64Little);
    let mut other = bytes.clone();
    patch(&mut other, 5, &[1], &[2]); // ELFDATA2MSB
    assert_eq!(refusal(&other), Refusal::NotElf64Little);
    let mut other = bytes;
    patch(&mut other, 16, &[3, 0], &[1, 0]); // ET_REL
    assert_eq!(refusal(&other), Refusal::NotShared);
    let executable = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(refusal(&executable), Refusal::NotShared);
}

#[test]
fn a_library_without_a_manifest_is_refused() {
    let sentence = refusal(&build("", ENTRY, &[])).to_string();
    assert!(sentence.contains("not a medusa plugin") && sentence.contains("build it with"));
    let sentence = refusal(&build("{}", ENTRY, &[])).to_string();
    assert!(sentence.contains("missing field `format`"), "{sentence}");
}

#[test]
fn the_manifest_decides() {
    let AbiVersion { major, minor } = Host::THIS.abi;
    let changed = |from: &str, to: &str| {
        let text = manifest();
        assert!(text.contains(from));
        let library = build(&text.replace(from, to), ENTRY, &[]);
        let sentence = refusal(&library).to_string();
        let text = render_text(&read(&library).unwrap());
        assert!(text.contains(&format!("refuses it: {sentence}")), "{text}");
        sentence
    };
    let newer = changed(&format!(r#""minor":{minor}"#), &format!(r#""minor":{}"#, minor + 1));
    assert!(newer.contains(&format!("needs ABI {major}.{}", minor + 1)), "{newer}");
    assert!(newer.contains(&format!("this host has {major}.{minor}")), "{newer}");
    assert!(newer.contains("upgrade the host or build against medusa-plugin-api"), "{newer}");

    let other = changed(&format!(r#""major":{major}"#), &format!(r#""major":{}"#, major + 1));
    assert!(other.contains("major versions"), "{other}");
    assert!(changed(r#""panic":"unwind""#, r#""panic":"abort""#).contains("panic = \"unwind\""));
    assert!(changed(Host::THIS.target, "riscv64-unknown-none").contains("--target"));
}

#[test]
fn what_would_stay_mapped_is_refused() {
    let static_tls =
        "__thread int t __attribute__((tls_model(\"initial-exec\"))); int f(void) { return t; }";
    let library = build(&manifest(), &format!("{ENTRY}{static_tls}"), &[]);
    assert_eq!(refusal(&library), Refusal::StaticTls);

    let library = build(&manifest(), ENTRY, &["-Wl,-z,nodelete"]);
    assert_eq!(refusal(&library), Refusal::Nodelete);

    let unique = "__asm__(\".type only, @gnu_unique_object\"); int only = 1;";
    let library = build(&manifest(), &format!("{ENTRY}{unique}"), &[]);
    assert_eq!(refusal(&library), Refusal::UniqueSymbol { symbol: "only".into() });
}

#[test]
fn a_library_without_an_entry_is_refused() {
    assert_eq!(refusal(&build(&manifest(), "int other;", &[])), Refusal::NoEntry);
    let uses_it = "extern int medusa_plugin; int f(void) { return medusa_plugin; }";
    assert_eq!(refusal(&build(&manifest(), uses_it, &[])), Refusal::NoEntry);
}

#[test]
fn libraries_that_stay_are_warned_of() {
    for (name, is_c) in [
        ("libc.so.6", true),
        ("ld-linux-x86-64.so.2", true),
        ("libgcc_s.so.1", true),
        ("libcrypto.so.3", false),
        ("libcurl.so", false),
    ] {
        assert_eq!(warnings(&[name.to_owned()]).is_empty(), is_c, "{name}");
    }
    let sentence = &warnings(&["libc.so.6".into(), "liba.so".into(), "libb.so".into()])[0];
    assert!(sentence.contains("liba.so, libb.so: ") && sentence.contains("on their own terms"));
}
