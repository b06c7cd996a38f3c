//! The parts of a shared library's file that decide whether it can be loaded: ELF, 64 bit, little endian.
//!
//! Nothing in the file is trusted: every offset is checked against its length.

use std::fs;

use medusa_abi::ENTRY_SYMBOL;
use object::{
    LittleEndian, ReadCache,
    elf::{self, FileHeader64},
    read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym},
};

use super::{Manifest, Refusal};

type Header = FileHeader64<LittleEndian>;

const LE: LittleEndian = LittleEndian;

#[cfg(target_arch = "x86_64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_X86_64, "x86-64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_AARCH64, "aarch64");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: (elf::Machine, &str) = (elf::EM_NONE, "one that takes no plugins");

pub(super) struct File<'data> {
    bytes: &'data [u8],
    sections: SectionTable<'data, Header>,
}

#[derive(Default)]
pub(super) struct Dynamic {
    pub(super) needed: Vec<String>,
    pub(super) has_static_tls: bool,
    pub(super) is_nodelete: bool,
}

#[derive(Default)]
pub(super) struct Symbols {
    pub(super) has_entry: bool,
    pub(super) unique: Option<String>,
}

impl<'data> File<'data> {
    pub(super) fn parse(bytes: &'data [u8]) -> Result<File<'data>, Refusal> {
        let header = header(bytes)?;
        check_extents(header, bytes)?;
        let sections = header.sections(LE, bytes).map_err(damaged("the list of sections"))?;
        Ok(File { bytes, sections })
    }

    /// A section's content; none if there is no such section.
    pub(super) fn section(&self, name: &str) -> Result<Option<&'data [u8]>, Refusal> {
        let Some((_, section)) = self.sections.section_by_name(LE, name.as_bytes()) else {
            return Ok(None);
        };
        section.data(LE, self.bytes).map(Some).map_err(damaged(name))
    }

    pub(super) fn dynamic(&self) -> Result<Dynamic, Refusal> {
        let table =
            self.sections.dynamic_table(LE, self.bytes).map_err(damaged("the dynamic section"))?;
        let mut dynamic = Dynamic::default();
        for entry in table.dynamics().iter().take_while(|entry| entry.d_tag(LE) != elf::DT_NULL) {
            let value = entry.d_val(LE);
            match entry.d_tag(LE) {
                elf::DT_FLAGS => dynamic.has_static_tls = value & elf::DF_STATIC_TLS.0 != 0,
                elf::DT_FLAGS_1 => dynamic.is_nodelete = value & elf::DF_1_NODELETE.0 != 0,
                elf::DT_NEEDED => {
                    let offset = u32::try_from(value).unwrap_or(u32::MAX);
                    let name = table.strings().get(offset).map_err(|()| Refusal::Damaged {
                        part: "the name of a needed library".to_owned(),
                        reason: format!("it would be at offset {value}"),
                    })?;
                    dynamic.needed.push(String::from_utf8_lossy(name).into_owned());
                }
                _ => {}
            }
        }
        Ok(dynamic)
    }

    pub(super) fn symbols(&self) -> Result<Symbols, Refusal> {
        let table = self
            .sections
            .symbols(LE, self.bytes, elf::SHT_DYNSYM)
            .map_err(damaged("the list of symbols"))?;
        let mut symbols = Symbols::default();
        for symbol in table.symbols().iter().filter(|symbol| !symbol.is_undefined(LE)) {
            let name = || table.symbol_name(LE, symbol).map_err(damaged("a symbol's name"));
            match symbol.st_bind() {
                elf::STB_GNU_UNIQUE if symbols.unique.is_none() => {
                    symbols.unique = Some(String::from_utf8_lossy(name()?).into_owned());
                }
                elf::STB_GLOBAL => symbols.has_entry |= name()? == ENTRY_SYMBOL.as_bytes(),
                _ => {}
            }
        }
        Ok(symbols)
    }
}

/// What a library's file says of itself, if that is found where it has to be. The rest of the file is neither read nor checked.
pub(super) fn manifest(file: &fs::File) -> Option<Manifest> {
    let bytes = &ReadCache::new(file);
    let sections = Header::parse(bytes).ok()?.sections(LE, bytes).ok()?;
    let (_, section) = sections.section_by_name(LE, medusa_abi::MANIFEST_SECTION.as_bytes())?;
    Manifest::parse(section.data(LE, bytes).ok()?).ok()
}

fn header(bytes: &[u8]) -> Result<&Header, Refusal> {
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(Refusal::NotElf { looks_like: looks_like(bytes) });
    }
    if bytes.len() < size_of::<Header>() {
        return Err(Refusal::Truncated {
            length: bytes.len() as u64,
            needs: size_of::<Header>() as u64,
        });
    }
    // e_ident: class and data encoding come before anything that depends on them.
    if bytes[4] != elf::ELFCLASS64.0 || bytes[5] != elf::ELFDATA2LSB.0 {
        return Err(Refusal::NotElf64Little);
    }
    let header = Header::parse(bytes).map_err(damaged("the file header"))?;
    let machine = header.e_machine(LE);
    if machine != MACHINE.0 {
        return Err(Refusal::Architecture { file: machine_name(machine), host: MACHINE.1 });
    }
    if header.e_type(LE) != elf::ET_DYN {
        return Err(Refusal::NotShared);
    }
    Ok(header)
}

/// Whether tables, segments and sections lie within the file.
fn check_extents(header: &Header, bytes: &[u8]) -> Result<(), Refusal> {
    let length = bytes.len() as u64;
    let within = |offset: u64, size: u64| {
        let needs = offset.saturating_add(size);
        if needs <= length { Ok(()) } else { Err(Refusal::Truncated { length, needs }) }
    };
    let table = |count: u16, entry: u16| u64::from(count) * u64::from(entry);
    within(header.e_phoff(LE), table(header.e_phnum(LE), header.e_phentsize(LE)))?;
    within(header.e_shoff(LE), table(header.e_shnum(LE), header.e_shentsize(LE)))?;
    let segments = header.program_headers(LE, bytes).map_err(damaged("the list of segments"))?;
    for segment in segments {
        within(segment.p_offset(LE), segment.p_filesz(LE))?;
    }
    let sections = header.section_headers(LE, bytes).map_err(damaged("the list of sections"))?;
    for section in sections.iter().filter(|section| section.sh_type(LE) != elf::SHT_NOBITS) {
        within(section.sh_offset(LE), section.sh_size(LE))?;
    }
    // An executable that is made to be moved about is ET_DYN as well, and names its interpreter.
    match segments.iter().any(|segment| segment.p_type(LE) == elf::PT_INTERP) {
        true => Err(Refusal::NotShared),
        false => Ok(()),
    }
}

fn looks_like(bytes: &[u8]) -> &'static str {
    let beginning = &bytes[..bytes.len().min(512)];
    match beginning {
        [] => "an empty file",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "a static library or rlib",
        [0, b'a', b's', b'm', ..] => "a WebAssembly module",
        [b'M', b'Z', ..] => "a Windows library",
        [0xcf, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => "a macOS library",
        _ if !beginning.contains(&0) && String::from_utf8_lossy(beginning).is_ascii() => "text",
        _ => "something else",
    }
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_X86_64 => "x86-64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "x86 (32 bit)".to_owned(),
        elf::EM_ARM => "arm (32 bit)".to_owned(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "POWER".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        other => format!("machine number {}", other.0),
    }
}

fn damaged(part: &str) -> impl Fn(object::read::Error) -> Refusal {
    let part = part.to_owned();
    move |error| Refusal::Damaged { part: part.clone(), reason: error.to_string() }
}
