//! Monitor commands of a plugin's own.

// Implements the hooks of a command.
#![allow(unsafe_code)]

use std::{ffi::c_void, future::Future, marker::PhantomData, ops::Deref, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    service::{
        COMMAND_JSON, Command, CommandHooks, CommandSpec as AbiSpec, ROLE_ADMIN, ROLE_OPERATOR,
        ROLE_VIEWER,
    },
    task::Task,
};

use crate::{
    catch::guard,
    error::{Error, IS_A_WORD, Result},
    handle::Owned,
    host::{bytes_of, fail, host},
    register::Registration,
    service::reply,
    task::into_task,
};

/// Who may run a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Whoever may use the monitor at all: the command changes nothing.
    Viewer,
    /// Who may change what runs.
    #[default]
    Operator,
    /// Who may change anything.
    Admin,
}

/// A monitor command: how it is typed, and what help says of it. The monitor knows it as `INSTANCE NAME`.
#[derive(Clone, Debug)]
pub struct CommandSpec {
    pub(crate) name: String,
    usage: String,
    summary: String,
    role: Role,
}

impl CommandSpec {
    /// A command for operators.
    pub fn new(name: impl Into<String>) -> CommandSpec {
        CommandSpec {
            name: name.into(),
            usage: String::new(),
            summary: String::new(),
            role: Role::default(),
        }
    }

    /// Its arguments, as help shows them: `[who]`.
    #[must_use]
    pub fn usage(mut self, usage: impl Into<String>) -> CommandSpec {
        self.usage = usage.into();
        self
    }

    /// What it does, in one line.
    #[must_use]
    pub fn summary(mut self, summary: impl Into<String>) -> CommandSpec {
        self.summary = summary.into();
        self
    }

    /// Who may run it.
    #[must_use]
    pub fn role(mut self, role: Role) -> CommandSpec {
        self.role = role;
        self
    }
}

/// The words after a command's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    words: Vec<String>,
    json: bool,
}

impl Arguments {
    /// Whether the answer is wanted as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }
}

impl Deref for Arguments {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.words
    }
}

pub(crate) fn add_command<F, Fut>(spec: &CommandSpec, handler: F) -> Result<Registration>
where
    F: Fn(Arguments) -> Fut + 'static,
    Fut: Future<Output = Result<String>> + 'static,
{
    let abi_spec = AbiSpec {
        name: Slice::new(spec.name.as_bytes()),
        usage: Slice::new(spec.usage.as_bytes()),
        summary: Slice::new(spec.summary.as_bytes()),
        role: match spec.role {
            Role::Viewer => ROLE_VIEWER,
            Role::Operator => ROLE_OPERATOR,
            Role::Admin => ROLE_ADMIN,
        },
        flags: 0,
        spare: [0; 2],
    };
    let data = Rc::into_raw(Rc::new(handler));
    let hooks = Table::new(&Hooks::<F, Fut>::HOOKS);
    let command = Command { data: data.cast_mut().cast(), hooks };
    let host = host();
    // SAFETY: The spec is borrowed for the call, the command's data is what its hooks expect.
    let code = unsafe { (host.offer.command_add)(host.instance, &abi_spec, command) };
    if code < 0 {
        // SAFETY: The host did not take the command, so this is the only pointer.
        unsafe { drop(Rc::from_raw(data)) };
    }
    let handle =
        Error::check_named(code, &format!("cannot add the command {}", spec.name), IS_A_WORD)?;
    Ok(Registration::new(Owned::new(handle as Handle)))
}

struct Hooks<F, Fut>(PhantomData<(F, Fut)>);

impl<F, Fut> Hooks<F, Fut>
where
    F: Fn(Arguments) -> Fut + 'static,
    Fut: Future<Output = Result<String>> + 'static,
{
    const HOOKS: CommandHooks =
        CommandHooks { size: size_of::<CommandHooks>(), run: Self::run, drop: Self::drop };

    unsafe extern "C" fn run(
        data: *mut c_void,
        call: Handle,
        arguments: *const Slice,
        argument_count: usize,
        flags: u32,
        out: *mut Task,
    ) -> Code {
        guard(|| {
            // SAFETY: `data` comes from `add_command` and was not dropped; this is one more owner of it.
            let handler = unsafe {
                Rc::increment_strong_count(data.cast::<F>());
                Rc::from_raw(data.cast::<F>())
            };
            let slices = if arguments.is_null() || argument_count > isize::MAX as usize / 16 {
                &[]
            } else {
                // SAFETY: The arguments are this hook's.
                unsafe { std::slice::from_raw_parts(arguments, argument_count) }
            };
            let word = |slice: &Slice| {
                // SAFETY: As above.
                String::from_utf8_lossy(unsafe { bytes_of(*slice) }).into_owned()
            };
            let arguments = Arguments {
                words: slices.iter().map(word).collect(),
                json: flags & COMMAND_JSON != 0,
            };
            let task = into_task(async move {
                match handler(arguments).await {
                    Ok(text) => match reply(call, text.as_bytes()).await {
                        code if code < 0 => code,
                        _ => code::READY,
                    },
                    Err(error) => fail(&error.to_string()),
                }
            });
            // SAFETY: `out` is this hook's argument, to be written to.
            unsafe { out.write(task) };
            code::READY
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host's own share of the command, given back once.
            unsafe { drop(Rc::from_raw(data.cast::<F>())) };
            code::READY
        })
    }
}
