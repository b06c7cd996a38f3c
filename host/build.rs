//! Tells the linker which functions the executables export, and the crate which target it is built for.

/// What `plugin::interpose` takes over from the C library. A plugin binds to these only if the executable exports them.
const INTERPOSED: [&str; 5] = [
    "__cxa_thread_atexit_impl",
    "pthread_create",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_setspecific",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").expect("cargo states the target to build scripts");
    println!("cargo::rustc-env=MEDUSA_TARGET={target}");
    if target.contains("linux-gnu") {
        for name in INTERPOSED {
            for kind in ["bins", "tests"] {
                println!("cargo::rustc-link-arg-{kind}=-Wl,--export-dynamic-symbol={name}");
            }
        }
    }
}
