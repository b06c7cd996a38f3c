//! What instances offer each other and the operator: services, monitor commands, metrics.

use core::ffi::c_void;

use abi_stable::StableAbi;

use crate::{
    code::Code,
    data::{Handle, Slice, Table},
    task::Task,
};

/// A service for other instances: bytes in, a sequence of bytes out, by CBOR maps. Never pointers, never synchronous.
///
/// OWNERSHIP: `data` passes to the host with the registration and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Responder {
    pub data: *mut c_void,
    pub hooks: Table<ResponderHooks>,
}

/// What the host does with a [`Responder`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = ResponderHooksLayout, prefix_fields = ResponderHooksFields)))]
#[sabi(missing_field(panic))]
pub struct ResponderHooks {
    pub size: usize,
    /// Called for each call. The task replies through `reply`, any number of times, and ends the sequence by ending.
    /// Dropping the task cancels the call.
    pub call: unsafe extern "C" fn(
        data: *mut c_void,
        call: Handle,
        caller: Slice,
        payload: Slice,
        deadline_ns: u64,
        out: *mut Task,
    ) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// Calls another instance's service.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct CallSpec {
    /// The instance's name; [`Slice::NONE`] for whichever offers the service.
    pub target: Slice,
    /// The service's name.
    pub service: Slice,
    /// The version that the caller speaks; it must be the one that is offered.
    pub version: u32,
    pub flags: u32,
    pub payload: Slice,
    /// On the clock of `now_ns`; 0 for none. When it passes, the call is cancelled and answers `TIMEOUT`.
    pub deadline_ns: u64,
    pub spare: [u64; 2],
}

/// Anybody who may use the monitor may run the command.
pub const ROLE_VIEWER: u32 = 0;
/// The command changes what runs.
pub const ROLE_OPERATOR: u32 = 1;
/// The command can change anything.
pub const ROLE_ADMIN: u32 = 2;

/// A monitor command of the plugin's own; it is typed as `INSTANCE NAME ARGUMENTS…`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct CommandSpec {
    pub name: Slice,
    /// The arguments, as help shows them: `[who]`.
    pub usage: Slice,
    /// One line.
    pub summary: Slice,
    /// `ROLE_*`.
    pub role: u32,
    pub flags: u32,
    pub spare: [u64; 2],
}

/// The answer is wanted as JSON.
pub const COMMAND_JSON: u32 = 1;

/// A monitor command's code.
///
/// OWNERSHIP: `data` passes to the host with the registration and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Command {
    pub data: *mut c_void,
    pub hooks: Table<CommandHooks>,
}

/// What the host does with a [`Command`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = CommandHooksLayout, prefix_fields = CommandHooksFields)))]
#[sabi(missing_field(panic))]
pub struct CommandHooks {
    pub size: usize,
    /// Called for each use. The task writes its answer through `reply` (text, in pieces) and ends with `READY`, or with
    /// `FAILED` for exit status 1.
    pub run: unsafe extern "C" fn(
        data: *mut c_void,
        call: Handle,
        arguments: *const Slice,
        argument_count: usize,
        flags: u32,
        out: *mut Task,
    ) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// Only goes up.
pub const METRIC_COUNTER: u32 = 0;
/// Goes up and down.
pub const METRIC_GAUGE: u32 = 1;

/// A metric of the plugin's: one 64-bit word that the host keeps and shows.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct MetricSpec {
    /// As Prometheus names them: `[a-z_][a-z0-9_]*`, the unit last.
    pub name: Slice,
    /// One line.
    pub help: Slice,
    /// `METRIC_*`.
    pub kind: u32,
    pub flags: u32,
    pub spare: [u64; 2],
}
