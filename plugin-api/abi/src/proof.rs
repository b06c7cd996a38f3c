//! The proof of layout: abi_stable's description of every type in the contract, for plugins in Rust to show the host.
//!
//! It proves more than the version numbers do: a plugin that was built with an edited copy of this crate is found out. It
//! is compared in the direction of age (an older plugin's layout is the one expected, the host's is the one found), for the
//! comparison lets only the found side have more fields.

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals},
    type_layout::TypeLayout,
};

use crate::{
    data, file, host, http, net,
    root::HooksLayout,
    service,
    task::{self, TaskHooksLayout},
};

/// The form of the description, by abi_stable's version. Descriptions of different forms cannot be compared.
pub const LAYOUT_FORM: u32 = 0x0000_0b03;

/// What [`crate::root::Root::layout`] answers.
///
/// OWNERSHIP: The plugin's, a `static`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LayoutProof {
    /// [`LAYOUT_FORM`].
    pub form: u32,
    pub layout: *const TypeLayout,
}

/// Every type of the contract, once, so that one comparison looks at all of them.
#[derive(StableAbi)]
#[repr(C)]
struct Contract {
    hooks: HooksLayout,
    host: host::HostCallbacksLayout,
    core: host::CoreCallbacksLayout,
    work: host::WorkCallbacksLayout,
    net: host::NetCallbacksLayout,
    file: host::FileCallbacksLayout,
    offer: host::OfferCallbacksLayout,
    http: host::HttpCallbacksLayout,
    task: task::Task,
    task_hooks: TaskHooksLayout,
    context: task::Context,
    waker_hooks: task::WakerHooksLayout,
    job_hooks: task::JobHooksLayout,
    thread_hooks: task::ThreadHooksLayout,
    service_hooks: net::ServiceHooksLayout,
    session_hooks: net::SessionHooksLayout,
    responder_hooks: service::ResponderHooksLayout,
    command_hooks: service::CommandHooksLayout,
    body_hooks: http::BodyHooksLayout,
    permit_hooks: http::PermitHooksLayout,
    handler_hooks: http::HandlerHooksLayout,
    observer_hooks: http::ObserverHooksLayout,
    field: http::Field,
    file_info: file::FileInfo,
    heap: data::HeapCounters,
}

/// The proof of whichever image calls this.
#[must_use]
pub extern "C" fn layout_proof() -> LayoutProof {
    LayoutProof { form: LAYOUT_FORM, layout: <Contract as StableAbi>::LAYOUT }
}

/// Compares a plugin's proof with that of this image, the host, whose minor version is at least the plugin's.
///
/// # Errors
/// The differences, as text: nothing in the error points into the plugin.
///
/// # Safety
/// `proof` must come from a library that is mapped during the call.
pub unsafe fn check(proof: LayoutProof) -> Result<(), String> {
    if proof.form != LAYOUT_FORM || proof.layout.is_null() {
        return Err(format!(
            "its layouts are described in form {:#x}, this host reads {LAYOUT_FORM:#x}",
            proof.form
        ));
    }
    // SAFETY: The caller's promise; the reference does not outlive this function.
    let plugin: &'static TypeLayout = unsafe { &*proof.layout };
    let host = <Contract as StableAbi>::LAYOUT;
    // A fresh map each time: abi_stable's own keeps references into libraries that have been unmapped since.
    check_layout_compatibility_with_globals(plugin, host, &CheckingGlobals::new())
        .map_err(|differences| differences.to_string())
}
