//! Pins the contract: every struct with its size, every field with its offset, size and type, every constant with its value,
//! against `layout.txt`.
//!
//! The snapshot is made from the crate's own source, so nothing can be left out of it; the compiler's sizes check it.

// All of this is a test; what cannot be read makes it fail.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path};

use medusa_abi::{data, file, host, http, net, proof, root, service, task};

const SOURCES: [&str; 9] =
    ["code", "data", "file", "host", "http", "lib", "net", "root", "service"];

/// A struct of the contract: its fields by name and type.
struct Struct {
    name: String,
    fields: Vec<(String, String)>,
}

macro_rules! sizes {
    ($($module:ident :: $name:ident),* $(,)?) => {
        BTreeMap::from([$((stringify!($name), size_of::<$module::$name>())),*])
    };
}

#[test]
fn the_abi_is_what_layout_txt_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (structs, constants) = read_sources(folder);
    let snapshot = snapshot(&structs, &constants);
    let path = folder.join("layout.txt");
    if env::var_os("MEDUSA_UPDATE_LAYOUT").is_some() {
        fs::write(&path, &snapshot).unwrap();
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(&kept), lines(&snapshot));
    let first = old.iter().zip(&new).position(|(old, new)| old != new);
    let first = first.unwrap_or(old.len().min(new.len()));
    let line = |lines: &[String]| lines.get(first).cloned().unwrap_or("(nothing)".to_owned());
    assert!(
        kept == snapshot,
        "the ABI was changed, first in line {} of layout.txt:\n  was {}\n  is  {}\n\
         if it is an append, raise ABI_MINOR, update layout.txt (MEDUSA_UPDATE_LAYOUT=1 cargo test -p medusa-abi), \
         docs/abi.md and CHANGELOG; anything else needs a new ABI_MAJOR",
        first + 1,
        line(&old),
        line(&new),
    );
}

#[test]
fn the_compiler_agrees_on_every_size() {
    let (structs, _) = read_sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    let compiled = compiled_sizes();
    for item in &structs {
        let compiled = compiled.get(item.name.as_str());
        let compiled = compiled.unwrap_or_else(|| panic!("add {} to compiled_sizes", item.name));
        assert_eq!(layout(&structs, &item.name).0, *compiled, "{}", item.name);
    }
}

fn compiled_sizes() -> BTreeMap<&'static str, usize> {
    sizes![
        data::Slice,
        data::ByteSink,
        data::HeapCounters,
        file::OpenSpec,
        file::FileInfo,
        host::HostCallbacks,
        host::CoreCallbacks,
        host::WorkCallbacks,
        host::NetCallbacks,
        host::FileCallbacks,
        host::OfferCallbacks,
        host::HttpCallbacks,
        http::Field,
        http::RequestHead,
        http::ResponseHead,
        http::Permit,
        http::PermitHooks,
        http::HeadSink,
        http::BodySource,
        http::BodyHooks,
        http::FrameSink,
        http::Frame,
        http::RouteSpec,
        http::Handler,
        http::HandlerHooks,
        http::Observer,
        http::ObserverHooks,
        http::ExchangeRecord,
        net::SocketAddress,
        net::ConnectionInfo,
        net::TlsSpec,
        net::ParkSpec,
        net::SocketSpec,
        net::IoSlice,
        net::Service,
        net::ServiceHooks,
        net::Session,
        net::SessionHooks,
        proof::LayoutProof,
        root::Root,
        root::Hooks,
        service::Responder,
        service::ResponderHooks,
        service::CallSpec,
        service::CommandSpec,
        service::Command,
        service::CommandHooks,
        service::MetricSpec,
        task::Task,
        task::TaskHooks,
        task::Context,
        task::Waker,
        task::WakerHooks,
        task::Job,
        task::JobHooks,
        task::Thread,
        task::ThreadHooks,
    ]
}

fn snapshot(structs: &[Struct], constants: &[String]) -> String {
    let mut text = String::from(
        "Written by tests/layout.rs. Offsets and sizes are those of a 64-bit machine.\n",
    );
    for item in structs {
        let (size, offsets) = layout(structs, &item.name);
        write!(text, "\nstruct {} size {size}\n", item.name).unwrap();
        for ((name, kind), offset) in item.fields.iter().zip(offsets) {
            let size = size_and_align(structs, kind).0;
            writeln!(text, "{offset:6} {size:3} {name}: {kind}").unwrap();
        }
    }
    text.push('\n');
    constants.iter().for_each(|constant| writeln!(text, "{constant}").unwrap());
    text
}

/// Size and offsets of a struct, by C's rules.
fn layout(structs: &[Struct], name: &str) -> (usize, Vec<usize>) {
    let item = structs.iter().find(|item| item.name == name);
    let item = item.unwrap_or_else(|| panic!("the type {name} is not known to this test"));
    let (mut end, mut align_max) = (0usize, 1);
    let mut offsets = Vec::new();
    for (_, kind) in &item.fields {
        let (size, align) = size_and_align(structs, kind);
        end = end.next_multiple_of(align);
        offsets.push(end);
        end += size;
        align_max = align_max.max(align);
    }
    (end.next_multiple_of(align_max), offsets)
}

fn size_and_align(structs: &[Struct], kind: &str) -> (usize, usize) {
    if let Some((kind, count)) =
        kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')?.split_once("; "))
    {
        let (size, align) = size_and_align(structs, kind);
        return (size * count.parse::<usize>().unwrap(), align);
    }
    let pointer = ["*", "unsafe extern", "extern", "Option<extern", "Table<"];
    if pointer.iter().any(|start| kind.starts_with(start)) {
        return (8, 8);
    }
    match kind {
        "u8" => (1, 1),
        "u16" => (2, 2),
        "u32" | "i32" => (4, 4),
        "u64" | "i64" | "usize" | "Handle" | "InstanceId" | "Code" => (8, 8),
        "core::sync::atomic::AtomicU64" => (8, 8),
        name => {
            let align = structs.iter().find(|item| item.name == name).map(|item| {
                item.fields.iter().map(|(_, kind)| size_and_align(structs, kind).1).max()
            });
            (layout(structs, name).0, align.flatten().unwrap_or(1))
        }
    }
}

fn read_sources(folder: &Path) -> (Vec<Struct>, Vec<String>) {
    let (mut structs, mut constants) = (Vec::new(), Vec::new());
    let mut modules = SOURCES.to_vec();
    modules.extend(["proof", "task"]);
    let on_disk = fs::read_dir(folder.join("src")).unwrap().count();
    assert_eq!(on_disk, modules.len(), "a module of medusa-abi is not known to this test");
    for module in modules {
        let source = fs::read_to_string(folder.join(format!("src/{module}.rs"))).unwrap();
        let code: String = source
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default().trim())
            .filter(|line| !line.starts_with("#[") && !line.starts_with("#!["))
            .fold(String::new(), |code, line| code + line + " ");
        let code = code.split_whitespace().collect::<Vec<_>>().join(" ").replace("->", "→");
        structs.extend(code.split("pub struct ").skip(1).filter_map(read_struct));
        constants.extend(
            code.split("pub const ")
                .skip(1)
                .filter(|item| !item.starts_with("fn ") && !item.starts_with("unsafe "))
                .filter_map(|item| item.split(';').next())
                .map(|item| format!("const {module}::{}", item.replace('→', "->"))),
        );
    }
    (structs, constants)
}

/// A struct with named fields; `None` for a tuple.
fn read_struct(text: &str) -> Option<Struct> {
    let (name, rest) = text.split_once([' ', '(', '<'])?;
    let body = rest.strip_prefix('{').filter(|_| text[name.len()..].starts_with(' '))?;
    let mut depth = 0i32;
    let mut fields = vec![String::new()];
    for c in body.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => fields.push(String::new()),
            _ => {
                depth += i32::from("([<{".contains(c)) - i32::from(")]>}".contains(c));
                fields.last_mut()?.push(c);
            }
        }
    }
    let fields = fields.iter().filter_map(|field| {
        let (name, kind) = field.trim().strip_prefix("pub ")?.split_once(": ")?;
        let kind = kind.replace("( ", "(").replace(", )", ")").replace('→', "->");
        Some((name.to_owned(), kind))
    });
    Some(Struct { name: name.to_owned(), fields: fields.collect() })
}
