//! The macro that makes a crate a plugin.

/// Makes the crate a plugin whose `load` function is given. The crate must be a `cdylib`.
///
/// ```ignore
/// export_plugin!(load);
/// export_plugin!(
///     load,
///     config = Settings,              // a type that derives `Config`: its schema is in the manifest
///     kind = "http-extension",        // "service", "http-extension", "http-server" or "plugin"
///     capabilities = ["files"],       // of "listen", "connect", "resolve", "files", "threads", "services", "status"
///     exclusive = ["database"],       // what only one generation can hold; see Registrar::exclusive
///     state = 2, reads = [1, 2],      // the version of kept state that it writes, and those that it reads
///     build = "nightly",              // free text; MEDUSA_BUILD_ID in the environment of the build otherwise
/// );
/// ```
///
/// The plugin's name is the package's without a leading `medusa-`; version and description are the package's too. The
/// macro also gives the plugin a heap of its own, which is how the host knows what it uses and what it leaks.
#[macro_export]
macro_rules! export_plugin {
    ($load:path $(, $key:ident = $value:tt)* $(,)?) => {
        const _: () = {
            use $crate::__private as private;

            struct Exported;

            impl private::Export for Exported {
                fn load(registrar: &mut $crate::Registrar) -> $crate::Result<()> {
                    $load(registrar)
                }

                fn heap() -> ::core::option::Option<&'static private::Heap> {
                    HEAP_OF_PLUGIN
                }

                fn exclusive() -> ::core::option::Option<&'static [&'static str]> {
                    ::core::option::Option::Some(MANIFEST.exclusive)
                }
            }

            // A test's executable is no plugin, and has the heap that others have.
            #[cfg(not(test))]
            #[global_allocator]
            static HEAP: private::Heap = private::Heap::new();
            #[cfg(not(test))]
            static HEAP_OF_PLUGIN: ::core::option::Option<&'static private::Heap> =
                ::core::option::Option::Some(&HEAP);
            #[cfg(test)]
            static HEAP_OF_PLUGIN: ::core::option::Option<&'static private::Heap> =
                ::core::option::Option::None;

            static HOOKS: private::Hooks = private::hooks::<Exported>();

            #[unsafe(export_name = "medusa_plugin")]
            pub static ROOT: private::Root = private::root(&HOOKS, HEAP_OF_PLUGIN);

            const MANIFEST: private::Manifest = {
                #[allow(unused_mut)]
                let mut manifest = private::Manifest {
                    package: ::core::env!("CARGO_PKG_NAME"),
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    description: ::core::env!("CARGO_PKG_DESCRIPTION"),
                    kind: "plugin",
                    unwinds: ::core::cfg!(panic = "unwind"),
                    capabilities: &[],
                    exclusive: &[],
                    state: 0,
                    reads: &[],
                    build: ::core::option_env!("MEDUSA_BUILD_ID"),
                    config: ::core::option::Option::None,
                };
                $($crate::__manifest_option!(manifest, $key = $value);)*
                manifest
            };

            // In a section of its own, to be read without running the file; exported, so that no linker drops it.
            #[used]
            #[unsafe(link_section = ".medusa.manifest")]
            #[unsafe(export_name = "medusa_manifest")]
            pub static MANIFEST_TEXT: [u8; private::manifest_length(&MANIFEST)] =
                private::manifest_text(&MANIFEST);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __manifest_option {
    ($manifest:ident, config = $type:ty) => {
        $manifest.config =
            ::core::option::Option::Some(<$type as $crate::__private::config::Config>::SCHEMA)
    };
    ($manifest:ident, capabilities = [$($text:expr),* $(,)?]) => {
        $manifest.capabilities = &[$($text),*]
    };
    ($manifest:ident, exclusive = [$($text:expr),* $(,)?]) => {
        $manifest.exclusive = &[$($text),*]
    };
    ($manifest:ident, reads = [$($version:expr),* $(,)?]) => {
        $manifest.reads = &[$($version),*]
    };
    ($manifest:ident, state = $version:expr) => {{
        $manifest.state = $version;
        // What is written can be read, unless `reads` says otherwise.
        if $manifest.reads.is_empty() {
            $manifest.reads = &[$version];
        }
    }};
    ($manifest:ident, kind = $text:expr) => {
        $manifest.kind = $text
    };
    ($manifest:ident, build = $text:expr) => {
        $manifest.build = ::core::option::Option::Some($text)
    };
}

/// The build's id: what `MEDUSA_BUILD_ID` was in the environment when the plugin was compiled, or `""`.
#[macro_export]
macro_rules! build_id {
    () => {
        match ::core::option_env!("MEDUSA_BUILD_ID") {
            ::core::option::Option::Some(id) => id,
            ::core::option::Option::None => "",
        }
    };
}
