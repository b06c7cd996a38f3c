//! Real unloading, in a process that has the host's own functions in front of the C library's.

use medusa::plugin::interpose;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};

#[test]
fn the_executables_export_what_libraries_have_to_bind_to() {
    interpose::install().unwrap();
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_medusa")).unwrap();
    let file = ElfFile64::<object::LittleEndian>::parse(&*bytes).unwrap();
    for name in [
        "__cxa_thread_atexit_impl",
        "pthread_create",
        "pthread_key_create",
        "pthread_key_delete",
        "pthread_setspecific",
    ] {
        let exported = |symbol: object::read::elf::ElfSymbol<'_, '_, _>| {
            symbol.is_definition() && symbol.name() == Ok(name)
        };
        assert!(file.dynamic_symbols().any(exported), "medusa does not export {name}");
    }
}
