//! The root of a library, and its life: the hooks from `prepare` to the last one before it is unmapped.

use abi_stable::StableAbi;

use crate::{
    code::Code,
    data::{ByteSink, HeapCounters, InstanceId, Slice, Table},
    host::HostCallbacks,
    proof::LayoutProof,
    task::Task,
};

/// The first eight bytes of [`Root`]: "medusa", a separator, and the form of this very struct.
pub const MAGIC: u64 = u64::from_le_bytes(*b"medusa\x00\x01");

/// What the library exports under [`crate::ENTRY_SYMBOL`]. Its shape is the same in every version, for ever.
///
/// OWNERSHIP: The plugin's, a `static`.
#[derive(Debug)]
#[repr(C)]
pub struct Root {
    /// [`MAGIC`].
    pub magic: u64,
    /// The version of the contract that the library was built with; see [`crate::ABI_MAJOR`].
    pub abi_major: u16,
    pub abi_minor: u16,
    /// `size_of::<Root>()`.
    pub size: u32,
    pub hooks: Table<Hooks>,
    /// The live counters of the plugin's heap; null if it keeps none.
    pub heap: *const HeapCounters,
    /// The proof of layout, for plugins in Rust; `None` for others.
    pub layout: Option<extern "C" fn() -> LayoutProof>,
    pub spare: [usize; 4],
}

// SAFETY: The pointers are to statics, and the counters behind them are atomic.
unsafe impl Sync for Root {}

/// The life of one generation, in the order of the calls. All of them are made on the loop's thread.
///
/// One image of a library serves one generation of one instance, so a plugin may keep what it is given in statics.
/// A hook that fails calls [`CoreCallbacks::fail`](crate::host::CoreCallbacks::fail) with the reason and answers [`crate::code::FAILED`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = HooksLayout, prefix_fields = HooksFields)))]
#[sabi(missing_field(panic))]
pub struct Hooks {
    /// `size_of::<Hooks>()` of the plugin.
    pub size: usize,
    /// Called first, once. Reads the configuration (a CBOR map, checked against the manifest's schema) and makes ready,
    /// without an effect that anybody else could notice: a check or a preflight calls this and then `stop`.
    pub prepare: unsafe extern "C" fn(
        host: Table<HostCallbacks>,
        instance: InstanceId,
        config: Slice,
    ) -> Code,
    /// Called once after `prepare`, before the instance gets work. Registers what the plugin offers. The task answers
    /// `READY` when the plugin can serve; it has a deadline.
    pub start: unsafe extern "C" fn(out: *mut Task) -> Code,
    /// Called at the switch, on the old generation: gives up exclusive resources (a database file, say).
    pub release: unsafe extern "C" fn(out: *mut Task) -> Code,
    /// Called at the switch, on the new generation after the old one's `release`; and on the old one again if the switch
    /// failed.
    pub acquire: unsafe extern "C" fn(out: *mut Task) -> Code,
    /// Called at the switch, on the old generation: writes its kept state, a CBOR map. Nothing written: there is none.
    pub export_state: unsafe extern "C" fn(sink: ByteSink) -> Code,
    /// Called at the switch, on the new generation, in the same turn: takes the kept state that the old one wrote in
    /// `version`, which the new one's manifest says it reads.
    pub import_state: unsafe extern "C" fn(version: u32, state: Slice) -> Code,
    /// Called when the generation gets no more new work: finish what is in flight before `deadline_ns`.
    pub drain: unsafe extern "C" fn(deadline_ns: u64) -> Code,
    /// Called for each [`CoreCallbacks::post`](crate::host::CoreCallbacks::post), in order.
    pub posted: unsafe extern "C" fn(bytes: Slice) -> Code,
    /// Called once, when all tasks, jobs, handles and registrations of the generation are gone: drops what is left.
    pub stop: unsafe extern "C" fn() -> Code,
    /// Called last before the library is unmapped, after every thread was cleaned: frees every block of the plugin's
    /// heap that is still allocated. Touches no thread-local and no standard library.
    #[sabi(last_prefix_field)]
    pub heap_release: unsafe extern "C" fn() -> Code,
    /// Called at the switch, on the old generation, just before its sessions that rest go over to the new one and are forgotten here:
    /// each other session goes over when it next parks, so bring those in a turn to a park soon. `drain` follows.
    pub handed_over: unsafe extern "C" fn() -> Code,
    /// Called now and then after an upgrade, on the new generation: the task answers `READY` if the plugin can do its work. It has a
    /// deadline.
    pub health: unsafe extern "C" fn(out: *mut Task) -> Code,
    /// Called with 1 before the host replaces its own binary: what goes over is what is parked then, so bring sessions in a turn to a park
    /// soon. Called with 0 if that is not done after all. Called with 1 before `start` too, and with 0 when the generation serves: what it
    /// does of itself is to wait until then.
    pub freeze: unsafe extern "C" fn(is_frozen: u32) -> Code,
}
