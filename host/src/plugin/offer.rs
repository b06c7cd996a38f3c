//! What instances offer: monitor commands, metrics, and services that other instances call.

#![allow(unsafe_code)] // Calls the hooks of commands and services.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    service::{COMMAND_JSON, CommandHooks, ResponderHooks},
    task::Task,
};

use crate::plugin::{
    failure::Failure, frame, future::PluginFuture, generation::Generation, handles::Resource, own,
    owned::Owned,
};

/// Pieces of an answer that may wait for their reader.
const PIECES_WAITING_MAX: usize = 16;

/// A monitor command of a plugin's.
pub struct CommandEntry {
    /// The plugin's object.
    pub object: Owned,
    /// Its code.
    pub hooks: Table<CommandHooks>,
    /// As it is typed, after the instance's name.
    pub name: String,
    /// Its arguments, as help shows them.
    pub usage: String,
    /// One line.
    pub summary: String,
    /// `ROLE_*`.
    pub role: u32,
}

/// A metric of a plugin's: a word of the host's memory.
pub struct Metric {
    /// As Prometheus names it.
    pub name: String,
    /// One line.
    pub help: String,
    /// `METRIC_*`.
    pub kind: u32,
    word: Box<AtomicU64>,
}

impl Metric {
    /// A metric at zero.
    pub fn new(name: String, help: String, kind: u32) -> Metric {
        Metric { name, help, kind, word: Box::default() }
    }

    /// What it stands at.
    pub fn value(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    /// Where the plugin finds it.
    pub fn word(&self) -> *mut u64 {
        self.word.as_ptr()
    }
}

/// A service that an instance offers.
pub struct ResponderEntry {
    /// The plugin's object.
    pub object: Owned,
    /// Its code.
    pub hooks: Table<ResponderHooks>,
    /// The service's name.
    pub service: String,
    /// The version that it speaks.
    pub version: u32,
}

/// An answer that comes in pieces: written by one task, read by another.
#[derive(Default)]
struct Pieces {
    waiting: RefCell<VecDeque<Vec<u8>>>,
    end: Cell<Option<Code>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Pieces {
    fn write(&self, piece: &[u8], waker: &Waker) -> Code {
        if self.end.get().is_some() {
            return code::GONE;
        }
        if self.waiting.borrow().len() >= PIECES_WAITING_MAX {
            *self.writer.borrow_mut() = Some(waker.clone());
            return code::PENDING;
        }
        self.waiting.borrow_mut().push_back(piece.to_vec());
        wake(&self.reader);
        code::READY
    }

    /// The next piece, the code of the end, or neither yet.
    fn read(&self, waker: &Waker) -> Result<Vec<u8>, Code> {
        if let Some(piece) = self.waiting.borrow_mut().pop_front() {
            wake(&self.writer);
            return Ok(piece);
        }
        Err(self.end.get().unwrap_or_else(|| {
            *self.reader.borrow_mut() = Some(waker.clone());
            code::PENDING
        }))
    }

    fn end(&self, code: Code) {
        if self.end.get().is_none() {
            self.end.set(Some(code));
        }
        wake(&self.reader);
        wake(&self.writer);
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A call or a command as the one who answers sees it.
pub struct IncomingCall {
    pieces: Rc<Pieces>,
}

impl IncomingCall {
    /// Adds a piece to the answer.
    pub fn reply(&self, piece: &[u8], waker: &Waker) -> Code {
        self.pieces.write(piece, waker)
    }
}

/// A call or a command as the one who asked sees it. Dropping it cancels what is behind it.
pub struct Call(Behind);

/// Who answers a call.
enum Behind {
    /// A plugin's task.
    Plugin { pieces: Rc<Pieces>, future: Rc<PluginFuture>, _answering: Answering },
    /// The host itself: a piece is made when it is asked for.
    Host(RefCell<own::Answer>),
}

/// The answering side's handle, taken back when the call ends.
struct Answering {
    generation: Rc<Generation>,
    handle: Handle,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = self.generation.handles.remove(self.handle);
    }
}

impl Call {
    /// The next piece of the answer, or `END`, `PENDING`, or why there is none.
    ///
    /// # Errors
    /// The code.
    pub fn next(&self, waker: &Waker) -> Result<Vec<u8>, Code> {
        match &self.0 {
            Behind::Plugin { pieces, .. } => pieces.read(waker),
            Behind::Host(answer) => answer.borrow_mut().next().ok_or(code::END),
        }
    }

    /// As [`Call::next`], to be awaited.
    ///
    /// # Errors
    /// The code that the answer ended with.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, Code>> {
        match self.next(context.waker()) {
            Err(code::PENDING) => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    /// Why it ended with `code`, for people; `doing` is what was asked.
    pub fn reason(&self, doing: &str, code: Code) -> String {
        let failure = match &self.0 {
            Behind::Plugin { future, .. } => future.failure(),
            Behind::Host(_) => None,
        };
        let failure = failure.filter(|failure| failure.code == code);
        failure.unwrap_or_else(|| Failure::from(code)).sentence(doing)
    }

    /// A call that the host itself answers.
    pub fn of_host(answer: own::Answer) -> Call {
        Call(Behind::Host(RefCell::new(answer)))
    }

    /// Begins a call: `hook` makes the plugin's task for the handle that it is given.
    fn begin(
        generation: &Rc<Generation>,
        name: &str,
        deadline_ns: u64,
        hook: impl FnOnce(Handle, &mut Task) -> Code,
    ) -> Result<Call, Failure> {
        let pieces = Rc::<Pieces>::default();
        let incoming = Rc::new(IncomingCall { pieces: pieces.clone() });
        let max = generation.limits.service_queue_max;
        let handle =
            generation.handles.insert(incoming, max).map_err(|_| Failure::from(code::BUSY))?;
        let answering = Answering { generation: generation.clone(), handle };
        let mut task = Task::NONE;
        let code = frame::enter(generation, || hook(handle, &mut task));
        if let Some(failure) = Failure::of(generation, code) {
            return Err(failure);
        }
        let future = PluginFuture::new(generation, task, name.to_owned()).in_flight();
        future.spawn();
        let (watched, end) = (future.clone(), pieces.clone());
        let registry = generation.instance.registry.clone();
        tokio::task::spawn_local(async move {
            let ended = std::future::poll_fn(|context| match watched.poll_end(context.waker()) {
                code::PENDING => std::task::Poll::Pending,
                code => std::task::Poll::Ready(code),
            });
            let code = if deadline_ns == 0 {
                ended.await
            } else {
                let deadline = registry.clock.instant(deadline_ns);
                tokio::time::timeout_at(deadline, ended).await.unwrap_or(code::TIMEOUT)
            };
            end.end(match code {
                code::READY => code::END,
                // It did not end by itself, and the caller, who would have heard of it first, did not give it up.
                code::CANCELLED if watched.failure().is_none() => code::GONE,
                code => code,
            });
            watched.cancel();
        });
        Ok(Call(Behind::Plugin { pieces, future, _answering: answering }))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Behind::Plugin { pieces, future, .. } = &self.0 {
            pieces.end(code::CANCELLED);
            future.cancel();
        }
    }
}

impl ResponderEntry {
    /// Calls the service. What fails is told in the log, for the caller is another plugin.
    ///
    /// # Errors
    /// `BUSY` when it has as many calls as it may, or the plugin's code.
    pub fn call(&self, caller: &str, payload: &[u8], deadline_ns: u64) -> Result<Call, Code> {
        // SAFETY: Hooks are statics of the library, which is mapped while `object` lives.
        let hooks = unsafe { self.hooks.get() }.ok_or(code::INVALID)?;
        let generation = self.object.generation();
        let call = Call::begin(generation, &self.service, deadline_ns, |handle, out| {
            let (caller, payload) = (Slice::new(caller.as_bytes()), Slice::new(payload));
            // SAFETY: The slices are borrowed for the call, `out` outlives it.
            unsafe { (hooks.call)(self.object.data(), handle, caller, payload, deadline_ns, out) }
        });
        call.map_err(|failure| {
            failure.log(generation, &self.service);
            failure.code
        })
    }
}

impl CommandEntry {
    /// Runs the command.
    ///
    /// # Errors
    /// Why the plugin did not begin.
    pub fn run(&self, arguments: &[String], json: bool) -> Result<Call, Failure> {
        // SAFETY: As in `ResponderEntry::call`.
        let hooks = unsafe { self.hooks.get() }.ok_or(code::INVALID)?;
        let arguments: Vec<Slice> =
            arguments.iter().map(|argument| Slice::new(argument.as_bytes())).collect();
        let flags = if json { COMMAND_JSON } else { 0 };
        let call = Call::begin(self.object.generation(), &self.name, 0, |handle, out| {
            // SAFETY: The slices are borrowed for the call, `out` outlives it.
            unsafe {
                (hooks.run)(
                    self.object.data(),
                    handle,
                    arguments.as_ptr(),
                    arguments.len(),
                    flags,
                    out,
                )
            }
        })?;
        if let Behind::Plugin { future, .. } = &call.0 {
            // Whoever runs it is told of a failure.
            future.clone().told();
        }
        Ok(call)
    }
}

/// Does what dropping a handle means for the thing that it stood for.
pub fn dropped(resource: Resource) {
    match resource {
        Resource::Task(_) | Resource::Job(_) | Resource::Thread(_) => {}
        Resource::Route(route) => route.unmount(),
        Resource::Observer(observer) => observer.unmount(),
        Resource::Exchange(exchange) => exchange.cancel(),
        Resource::Service(service) => {
            let generation = service.object.generation().clone();
            drop(generation.service.take());
            service.end();
        }
        Resource::Command(command) => {
            let generation = command.object.generation().clone();
            generation.commands.borrow_mut().retain(|other| !Rc::ptr_eq(other, &command));
        }
        Resource::Responder(responder) => {
            let generation = responder.object.generation().clone();
            generation.responders.borrow_mut().retain(|other| !Rc::ptr_eq(other, &responder));
        }
        other => drop(other),
    }
}
