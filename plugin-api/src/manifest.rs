//! The manifest: what a library says of itself, as JSON text that the compiler writes.

use medusa_abi::{ABI_MAJOR, ABI_MINOR};

use crate::config::schema::{Field, Kind, Schema};

/// What goes into the manifest. Built by [`export_plugin!`](crate::export_plugin).
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Manifest {
    /// The package's name, with or without `medusa-` before it.
    pub package: &'static str,
    pub version: &'static str,
    pub description: &'static str,
    pub kind: &'static str,
    pub unwinds: bool,
    pub capabilities: &'static [&'static str],
    pub exclusive: &'static [&'static str],
    /// The version of kept state that it writes, 0 for none, and those that it reads.
    pub state: u32,
    pub reads: &'static [u32],
    pub build: Option<&'static str>,
    pub config: Option<Schema>,
}

/// The length of the manifest's text.
#[must_use]
pub const fn length(manifest: &Manifest) -> usize {
    render::<0>(manifest).1
}

/// The manifest's text; `N` must be its [`length`].
#[must_use]
pub const fn text<const N: usize>(manifest: &Manifest) -> [u8; N] {
    render::<N>(manifest).0
}

/// Counts what is written, and keeps the first `N` bytes of it.
struct Writer<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

const fn render<const N: usize>(manifest: &Manifest) -> ([u8; N], usize) {
    let mut out = Writer::<N> { bytes: [0; N], length: 0 };
    out.raw("{\"format\":1,\"name\":");
    out.string(without_prefix(manifest.package));
    out.raw(",\"version\":");
    out.string(manifest.version);
    out.raw(",\"description\":");
    out.string(manifest.description);
    out.raw(",\"abi\":{\"major\":");
    out.number(ABI_MAJOR as u64);
    out.raw(",\"minor\":");
    out.number(ABI_MINOR as u64);
    out.raw("},\"kind\":");
    out.string(manifest.kind);
    out.raw(",\"rustc\":");
    out.string(env!("MEDUSA_RUSTC"));
    out.raw(",\"target\":");
    out.string(env!("MEDUSA_TARGET"));
    out.raw(",\"panic\":");
    out.string(if manifest.unwinds { "unwind" } else { "abort" });
    out.raw(",\"capabilities\":");
    out.strings(manifest.capabilities);
    out.raw(",\"exclusive\":");
    out.strings(manifest.exclusive);
    if manifest.state != 0 {
        out.raw(",\"state\":{\"writes\":");
        out.number(manifest.state as u64);
        out.raw(",\"reads\":[");
        let mut i = 0;
        while i < manifest.reads.len() {
            out.comma(i);
            out.number(manifest.reads[i] as u64);
            i += 1;
        }
        out.raw("]}");
    }
    if let Some(build) = manifest.build {
        out.raw(",\"build\":");
        out.string(build);
    }
    if let Some(schema) = &manifest.config {
        out.raw(",\"config\":");
        out.schema(schema);
    }
    out.raw("}");
    (out.bytes, out.length)
}

/// The name of the plugin in the package `medusa-NAME`.
#[must_use]
const fn without_prefix(package: &'static str) -> &'static str {
    const PREFIX: &[u8] = b"medusa-";
    let bytes = package.as_bytes();
    let mut i = 0;
    while i < PREFIX.len() {
        if i >= bytes.len() || bytes[i] != PREFIX[i] {
            return package;
        }
        i += 1;
    }
    package.split_at(PREFIX.len()).1
}

impl<const N: usize> Writer<N> {
    const fn byte(&mut self, byte: u8) {
        if self.length < N {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn raw(&mut self, text: &str) {
        let mut i = 0;
        while i < text.len() {
            self.byte(text.as_bytes()[i]);
            i += 1;
        }
    }

    const fn comma(&mut self, index: usize) {
        if index > 0 {
            self.byte(b',');
        }
    }

    const fn number(&mut self, number: u64) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.byte(b'0' + (number % 10) as u8);
    }

    const fn string(&mut self, text: &str) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.byte(b'"');
        let mut i = 0;
        while i < text.len() {
            let byte = text.as_bytes()[i];
            match byte {
                b'"' | b'\\' => {
                    self.byte(b'\\');
                    self.byte(byte);
                }
                b'\n' => self.raw("\\n"),
                0..0x20 => {
                    self.raw("\\u00");
                    self.byte(HEX[(byte >> 4) as usize]);
                    self.byte(HEX[(byte & 15) as usize]);
                }
                _ => self.byte(byte),
            }
            i += 1;
        }
        self.byte(b'"');
    }

    const fn strings(&mut self, texts: &[&str]) {
        self.byte(b'[');
        let mut i = 0;
        while i < texts.len() {
            self.comma(i);
            self.string(texts[i]);
            i += 1;
        }
        self.byte(b']');
    }

    const fn schema(&mut self, schema: &Schema) {
        self.raw("{\"doc\":");
        self.string(schema.doc);
        self.raw(",\"fields\":[");
        let mut i = 0;
        while i < schema.fields.len() {
            self.comma(i);
            self.field(&schema.fields[i]);
            i += 1;
        }
        self.raw("]}");
    }

    const fn field(&mut self, field: &Field) {
        self.raw("{\"name\":");
        self.string(field.name);
        self.raw(",\"type\":");
        self.kind(&field.kind);
        self.raw(",\"required\":");
        self.raw(if field.required { "true" } else { "false" });
        if let Some(default) = field.default {
            self.raw(",\"default\":");
            self.raw(default);
        }
        if let Some(min) = field.min {
            self.raw(",\"min\":");
            self.raw(min);
        }
        if let Some(max) = field.max {
            self.raw(",\"max\":");
            self.raw(max);
        }
        self.raw(",\"doc\":");
        self.string(field.doc);
        self.byte(b'}');
    }

    const fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Bool => self.raw("\"bool\""),
            Kind::Integer => self.raw("\"integer\""),
            Kind::Float => self.raw("\"float\""),
            Kind::String => self.raw("\"string\""),
            Kind::Path => self.raw("\"path\""),
            Kind::Size => self.raw("\"size\""),
            Kind::Duration => self.raw("\"duration\""),
            Kind::List(kind) => {
                self.raw("{\"list\":");
                self.kind(kind);
                self.byte(b'}');
            }
            Kind::Table(schema) => {
                self.raw("{\"table\":");
                self.schema(schema);
                self.byte(b'}');
            }
            Kind::OneOf(words) => {
                self.raw("{\"one_of\":");
                self.strings(words);
                self.byte(b'}');
            }
        }
    }
}
